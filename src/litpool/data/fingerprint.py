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
    """Refuse to resume a run on other training rows than it has seen.

    Args:
        found: The fingerprint of the rows.
        saved: The job in the checkpoint, if there is one; before version 0.3.0 it has no
            fingerprint.
        source: Where the rows are from, for the message.

    Raises:
        InputError: The fingerprints differ.
    """
    if saved and saved.get("rows") not in (None, found):
        raise InputError(
            f"data.source={source}: the training rows are not those of the checkpoint, so the run "
            "cannot be resumed with them; to start a new run from its weights, use --init_from "
            "CKPT instead of --ckpt_path"
        )
