"""The options of `sweep`."""

from dataclasses import dataclass


@dataclass
class SweepOptions:
    """How to search.

    Args:
        trials: How many trials, counted over all workers and all calls.
        seeds: How many fresh seeds the winner and the config as it is are trained with at the end;
            0 for no comparison.
        workers: How many processes search at the same time, each on a GPU of its own if there are
            several.
        prune: Whether to stop a trial whose best validation score so far is below the median of
            the finished trials at the same validation.
        storage: The database of the trials: a file, or a URL such as
            `postgresql://user@host/sweep`; by default sweep.db in the sweep's folder.
    """

    trials: int = 20
    seeds: int = 5
    workers: int = 1
    prune: bool = True
    storage: str | None = None
