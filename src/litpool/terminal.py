"""What the terminal shows: a progress bar, warnings in one line, and nothing of the libraries' own affairs."""

import logging
import signal
import warnings
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from transformers.utils import logging as transformers_logging

from litpool import interrupt

HARMLESS = (
    ".*does not have many workers.*",  # texts are tokenized beforehand: workers would only cost
    ".*is smaller than the logging interval.*",
    ".*Checkpoint directory .* exists and is not empty.*",  # a resumed run
    ".*dataloader is not resumable.*",  # its order is: TrainOrder asks the trainer how many batches are done
    ".*callbacks used to create the checkpoint need to be provided.*",  # scoring needs none
    ".*will save all targets and predictions in.* buffer.*",  # a correlation over a whole split needs them all
    ".*isinstance.treespec, LeafSpec.*",  # Lightning against torch's newer pytree
)


class ProgressBar(TQDMProgressBar):
    """Lightning's progress bar with the training loss, which is read only when the bar is drawn."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """The loss of the last batch."""
        return {"loss": f"{float(pl_module.loss_now):.3f}"} if trainer.training else {}  # type: ignore[arg-type]


class OwnSignalHandlers(Callback):
    """Restores our signal handlers: Lightning's own, in front, would end with exit status 0."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning has put its handlers in place."""
        environment = trainer._accelerator_connector.cluster_environment
        if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
            return  # SLURM sends SIGTERM along with the signal to requeue, and that must be ignored
        interrupt.install()
        launcher = trainer.strategy.launcher
        if isinstance(launcher, _SubprocessScriptLauncher):
            interrupt.at_deadline.append(lambda: launcher.kill(signal.SIGKILL))

    on_validation_start = on_test_start = on_predict_start = on_train_start


def quiet() -> None:
    """Leave to the terminal what a person needs: no adverts, no notes of the libraries about their own affairs."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("huggingface_hub").setLevel(
        logging.ERROR
    )  # its retries end in an error, which we report
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    for message in HARMLESS:
        warnings.filterwarnings("ignore", message)
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
