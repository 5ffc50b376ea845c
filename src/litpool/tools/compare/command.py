"""The command `compare`."""

from typing import Literal, get_args

from jsonargparse.typing import PositiveInt

from litpool import InputError, interrupt
from litpool.commands import Run
from litpool.tools.compare import report, runs, stock

Loop = Literal["plain", "lightning", "huggingface", "stock"]


def compare(  # noqa: D417
    run: Run,
    loops: list[Loop] = ["plain", "lightning", "huggingface", "stock"],  # noqa: B006 (the parser reads it)
    steps: PositiveInt | None = None,
    repeat: PositiveInt = 1,
) -> None:
    """Train with each loop in turn, and compare what they do step by step and what they cost.

    Args:
        loops: Which loops; `stock` is AutoModelForSequenceClassification and the Hugging Face
            Trainer with its defaults.
        steps: How many optimizer steps to train; by default the whole job.
        repeat: How often to train with each loop, to measure the times.
    """
    flags = run.flags("one of the loops")
    run.read("fit")
    config = {**run.config, "trainer": {**run.config["trainer"], **_stop_after(steps, run)}}
    folder = runs.folder_of(config, run.parent)
    left_out = stock.unsupported(run.data.task) if "stock" in loops else None
    chosen = [loop for loop in loops if loop != "stock" or not left_out]
    if not chosen:
        raise InputError(
            f"loops={loops}: none of them can run; choose from {', '.join(get_args(Loop))}"
        )
    try:
        records = runs.run_loops(config, folder, chosen, repeat)
    except KeyboardInterrupt:
        interrupt.advise(
            "interrupted; run the same command again to continue with the missing loops"
        )
        raise
    report.write(folder, records, stock.differences(run, flags), left_out)
    print(f"wrote {folder}")


def _stop_after(steps: int | None, run: Run) -> dict[str, int]:
    """Return trainer flags that end training after `steps`, with an evaluation at the end."""
    if steps is None:
        return {}
    steps = int(steps)  # YAML cannot write the parser's own integer type
    batches = steps * run.trainer.accumulate_grad_batches
    if batches < len(run.data.train_dataloader()):  # training ends within the first epoch
        return {"max_steps": steps, "val_check_interval": batches}
    return {"max_steps": steps}
