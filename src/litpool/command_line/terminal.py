"""What the user sees: progress, one-line warnings, and none of the libraries' notes."""

import logging
import signal
import threading
import warnings
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from transformers.utils import logging as transformers_logging

from litpool import interrupt
from litpool.loops.progress import ProgressLines
from litpool.loops.steps import optimizer_steps

HARMLESS = (
    # Texts are tokenized beforehand, so workers only cost time.
    ".*does not have many workers.*",
    ".*is smaller than the logging interval.*",
    # A resumed run writes to the same folder.
    ".*Checkpoint directory .* exists and is not empty.*",
    # It is: TrainOrder asks the trainer how many batches have been trained on.
    ".*dataloader is not resumable.*",
    # Scoring needs no callbacks.
    ".*callbacks used to create the checkpoint need to be provided.*",
    # A correlation needs the whole split.
    ".*will save all targets and predictions in.* buffer.*",
    # No installed font has the characters of a label; the tables beside the figures have them.
    "Glyph .* missing from font.*",
    # Lightning uses an old name of torch's pytree.
    ".*isinstance.treespec, LeafSpec.*",
)


class ProgressBar(TQDMProgressBar):
    """Lightning's progress bar with the training loss, read only when the bar is drawn."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return the loss of the last batch."""
        return {"loss": f"{float(pl_module.loss_now):.3f}"} if trainer.training else {}  # type: ignore[arg-type]


class Minutes(Callback):
    """Prints a line a minute about Lightning's loops, for a run without a terminal.

    Args:
        lines: Prints them.
    """

    def __init__(self, lines: ProgressLines | None = None) -> None:
        self.lines = lines or ProgressLines()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Print on the first device only."""
        if not trainer.is_global_zero:
            self.lines.print_line = lambda line: None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the steps."""
        self.lines.steps = int(optimizer_steps(trainer))
        self.lines.start(pl_module, trainer.optimizers[0])

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Count the rows."""
        self.lines.batch(batch)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Report the step; `pl_module` is a TextModule."""
        module: Any = pl_module
        self.lines.step(trainer.global_step, module.loss_now, 0.0, 0.0, 0.0)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Report a validation or test batch."""
        name = "test" if trainer.testing else "validation"
        totals = trainer.num_test_batches if trainer.testing else trainer.num_val_batches
        self.lines.scored(name, batch_idx + 1, int(totals[0]), len(batch["input_ids"]))

    on_test_batch_end = on_validation_batch_end


class OwnSignalHandlers(Callback):
    """Puts our signal handlers back: Lightning replaces them, and its own exit with status 0."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install our handlers after Lightning has installed its own."""
        environment = trainer._accelerator_connector.cluster_environment
        if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
            return  # SLURM sends SIGTERM along with its requeue signal; it must be ignored
        interrupt.install()
        launcher = trainer.strategy.launcher
        if isinstance(launcher, _SubprocessScriptLauncher):
            interrupt.at_deadline.append(lambda: launcher.kill(signal.SIGKILL))

    on_validation_start = on_test_start = on_train_start


def _report(arguments: threading.ExceptHookArgs) -> None:
    """Report the error of a thread, unless TensorBoard raises it again in the main thread."""
    writes_events = type(arguments.thread).__module__.startswith("tensorboard.")
    if not (writes_events and isinstance(arguments.exc_value, OSError)):
        _default_report(arguments)


_default_report = threading.excepthook


def quiet() -> None:
    """Silence the libraries, except for warnings that help the user."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # It logs each retry; the last one ends in an error that we report.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    for message in HARMLESS:
        warnings.filterwarnings("ignore", message)
    threading.excepthook = _report
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
