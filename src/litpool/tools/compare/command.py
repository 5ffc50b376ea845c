"""The command `compare`."""

from typing import Literal, get_args

from jsonargparse.typing import PositiveInt

from litpool import InputError, interrupt
from litpool.commands import Run
from litpool.tools.compare import runs, stock

Loop = Literal["plain", "lightning", "huggingface", "stock"]


def compare(  # noqa: D417
    run: Run,
    loops: list[Loop] = ["plain", "lightning", "huggingface", "stock"],  # noqa: B006 (the parser reads it)
    steps: PositiveInt | None = None,
    repeat: PositiveInt = 1,
) -> None:
    """Train with all loops, one after the other: the same job step by step, and what it costs.

    Args:
        loops: Which; `stock` is the Trainer as it comes, with AutoModelForSequenceClassification.
        steps: Optimizer steps to train, instead of the whole job.
        repeat: How often to train with each loop, for the times.
    """
    task, data = run.model.task, run.data
    flags = run.flags("one of the loops")
    run.read("fit")
    config = {**run.config, "trainer": {**run.config["trainer"], **_stop_after(steps, run)}}
    folder = runs.folder_of(config, run.parent)
    left_out = stock.unsupported(task) if "stock" in loops else None
    chosen = [loop for loop in loops if loop != "stock" or not left_out]
    if not chosen:
        raise InputError(
            f"loops={loops}: there is none to run; name some of {', '.join(get_args(Loop))}"
        )
    try:
        records = runs.run_loops(config, folder, chosen, repeat)
    except KeyboardInterrupt:
        interrupt.advise("interrupted; the same command goes on with the loops that are missing")
        raise
    pooling = run.config["model"]["pooling"]["class_path"].rpartition(".")[2]
    runs.report(
        folder, records, stock.differences(flags, run.model.recipe, pooling, data), left_out
    )
    print(f"wrote {folder}")


def _stop_after(steps: int | None, run: Run) -> dict[str, int]:
    """The flags that end training after so many steps, with an evaluation there if it is within an epoch."""
    if steps is None:
        return {}
    steps = int(steps)  # the parser's own kind of int is unknown to YAML
    batches = steps * run.trainer.accumulate_grad_batches
    within = batches < len(run.data.train_dataloader())
    return {"max_steps": steps, **({"val_check_interval": batches} if within else {})}
