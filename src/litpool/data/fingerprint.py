"""Whether rows are those that a checkpoint was trained on, wherever they are stored now."""

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from litpool import InputError

if TYPE_CHECKING:
    from datasets import Dataset


def fingerprint(rows: "Dataset") -> str:
    """Return a hash of the values of all rows, in their order."""
    digest = hashlib.sha256()
    for batch in rows.with_format("arrow").iter(10_000):
        columns = batch.to_pydict()
        digest.update(json.dumps([columns[name] for name in sorted(columns)], default=str).encode())
    return digest.hexdigest()[:32]


def check(found: str, saved: Mapping[str, Any] | None, source: Any) -> None:
    """Refuse to resume the job in a checkpoint on other training rows than it has seen.

    Raises:
        InputError: The fingerprints differ.
    """
    if saved and saved.get("rows") not in (None, found):  # None: from before version 0.2.0
        raise InputError(
            f"data.source={source}: the training rows are not those of the checkpoint, so the run "
            "cannot be resumed with them; to start a new run from its weights, use --init_from "
            "CKPT instead of --ckpt_path"
        )
