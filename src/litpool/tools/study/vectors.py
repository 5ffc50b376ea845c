"""One pass over the texts of a split: the vectors of all cells, in memory-mapped files that the next run finds again.

The files are float32: half the size would move scores in the third digit after the point. What is in them depends on
nothing but the token ids, the encoder and the cells, and these make the folder's name. It is written beside its place
and moved there when it is whole; after an interruption the split is begun anew, and splits that are whole are kept.
Rows stand as they are encoded, longest first (`order`): written in the rows' own order, each page of a file would go
to disk several times, which takes longer than the poolings.
"""

import hashlib
import json
import mmap
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from litpool import CACHE, InputError, __version__
from litpool.data.batches import TOKENS, Collator, EvaluationOrder
from litpool.data.module import TextDataModule
from litpool.model.encoder import Encoder
from litpool.tools.study.grid import Cell, pool, settings

if TYPE_CHECKING:  # slow to import, and not needed until there are rows
    from datasets import Dataset

Files = dict[
    int, NDArray[np.float32]
]  # by width d: the cells of this width, in their order: (cells, K, n, d)

ABANDONED = (
    3600  # seconds without a write, after which an unfinished folder is taken for a killed run's
)


def check_cache() -> None:
    """Refuse a cache that cannot be written.

    Raises:
        InputError: The folder cannot be made, or is not ours to write to.
    """
    try:
        (CACHE / "vectors").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=CACHE / "vectors"):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"{CACHE}: cannot be written ({reason}); set LITPOOL_CACHE to another folder"
        ) from error


def encode(
    encoder: Encoder, cells: Sequence[Cell], data: TextDataModule, split: str, salt: str
) -> Files:
    """The vectors of a split's texts, from the cache if they are there.

    Args:
        encoder: In eval mode, on the device where it shall work.
        cells: What to make of each text.
        data: Gives the token ids.
        split: Which.
        salt: What `fingerprint` says of the encoder.

    Raises:
        InputError: The cache's folder cannot be written, or its disk is too small.
    """
    key = _key(data.encoded[split], cells, salt)
    final = CACHE / "vectors" / key
    if not final.exists():
        part = final.with_name(f"{key}.{os.getpid()}.part")
        _clean(final)
        try:
            _write(encoder, cells, data, split, _create(part, cells, data.encoded[split]))
            part.rename(final)
        except OSError as error:
            if not final.exists():  # else another run was faster
                raise InputError(
                    f"{part}: cannot be written ({error}); set LITPOOL_CACHE to another folder"
                ) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return {width: np.load(final / f"{width}.npy", mmap_mode="r") for width in widths(cells)}


def order(encoded: "Dataset") -> NDArray[np.int64]:
    """The rows of a split as they stand in the files."""
    return np.concatenate(EvaluationOrder(encoded["length"], len(encoded)).batches)


def widths(cells: Sequence[Cell]) -> dict[int, list[Cell]]:
    """The cells by the width of their vectors."""
    found: dict[int, list[Cell]] = {}
    for cell in cells:
        found.setdefault(cell.module.out_features, []).append(cell)
    return found


def fingerprint(encoder: Encoder) -> str:
    """A hash of all that turns token ids into vectors: weights, config, device, versions."""
    device = next(encoder.parameters()).device.type
    config = {
        key: value for key, value in encoder.config.to_dict().items() if key != "_name_or_path"
    }
    facts = [
        "longest first",
        config,
        device,
        __version__,
        version("torch"),
        version("transformers"),
    ]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for name, tensor in encoder.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _key(encoded: "Dataset", cells: Sequence[Cell], salt: str) -> str:
    digest = hashlib.sha256(
        json.dumps(
            [salt, [(settings(cell.module), cell.layer, cell.static) for cell in cells]]
        ).encode()
    )
    columns = [name for name in TOKENS if name in encoded.column_names]
    for table in encoded.select_columns(columns).with_format("arrow").iter(10_000):
        for name in columns:
            digest.update(name.encode())
            array = table.column(name).combine_chunks()
            while pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
                digest.update(pc.list_value_length(array).to_numpy(zero_copy_only=False).tobytes())
                array = array.flatten()
            digest.update(array.to_numpy(zero_copy_only=False).tobytes())
    return digest.hexdigest()[:32]


def _clean(final: Path) -> None:
    """Remove from the cache's folder what killed runs left of these vectors."""
    final.parent.mkdir(parents=True, exist_ok=True)
    for part in final.parent.glob("*.part"):
        last = max((path.stat().st_mtime for path in [part, *part.glob("*")]), default=0.0)
        if time.time() - last > ABANDONED:
            shutil.rmtree(part, ignore_errors=True)


def _create(part: Path, cells: Sequence[Cell], encoded: "Dataset") -> Files:
    """Empty files for the vectors, if the disk has room for them."""
    first = encoded[0]["input_ids"]
    texts = len(first) if isinstance(first[0], list) else 1  # K
    shapes = {
        width: (len(group), texts, len(encoded), width) for width, group in widths(cells).items()
    }
    size, free = (
        sum(4 * int(np.prod(shape)) for shape in shapes.values()),
        shutil.disk_usage(part.parent).free,
    )
    if size > free:
        raise InputError(
            f"the vectors take {size / 1e9:.1f} GB, and {part.parent} has {free / 1e9:.1f} GB left; "
            "set LITPOOL_CACHE to a folder with more room, or use fewer texts (data.max_rows)"
        )
    part.mkdir()
    create = np.lib.format.open_memmap
    return {
        width: create(part / f"{width}.npy", "w+", np.float32, shape)
        for width, shape in shapes.items()
    }


@torch.inference_mode()
def _write(
    encoder: Encoder, cells: Sequence[Cell], data: TextDataModule, split: str, files: Files
) -> None:
    """The pass: longest texts first, so that memory that is too small shows at once; any batch's vectors at a time."""
    device, done = next(encoder.parameters()).device, 0
    for batch in bar(batches(data, split), f"encoding {split}"):
        rows = slice(done, done := done + len(batch["input_ids"]))
        vectors = pool(cells, encoder, {key: value.to(device) for key, value in batch.items()})
        for width, file in files.items():
            block = torch.stack(
                [part for part in vectors if part.shape[-1] == width]
            )  # (cells, B, K, d)
            file[:, :, rows] = block.transpose(1, 2).cpu().numpy()
        release(files.values())


def batches(data: TextDataModule, split: str) -> DataLoader[dict[str, Any]]:
    """A split's batches as the data module makes them for evaluation: every text once, longest first."""
    encoded: Any = data.encoded[split]  # whose rows, asked for by a list, are columns
    collate: Any = Collator(data.tokenizer)
    sampler = EvaluationOrder(encoded["length"], data.batch_size)
    return DataLoader(encoded, sampler=sampler, batch_size=None, collate_fn=collate)


def bar(steps: Any, what: str) -> Any:
    """A progress bar over `steps`, or of so many steps; none where nobody looks."""
    shown = {"desc": what, "leave": False, "disable": not sys.stderr.isatty()}
    return tqdm(total=steps, **shown) if isinstance(steps, int) else tqdm(steps, **shown)


def release(files: Iterable[NDArray[np.float32]]) -> None:
    """Give back the memory that mapped files take; their content stays where it is, on disk or on its way there."""
    for file in files:
        mapped = getattr(file, "_mmap", None)
        if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
            mapped.madvise(mmap.MADV_DONTNEED)
