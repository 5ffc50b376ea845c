"""One pass over the texts of a split: the vectors of all cells, cached in memory-mapped files.

The files are float32: half precision would change scores in the third decimal. The vectors depend
only on the token ids, the encoder and the cells, and a hash of these is the folder's name. A pass
writes to a temporary folder and renames it when it is complete, so an interrupted split starts
again and complete ones are kept.

The files keep the order of encoding, longest text first (`order`). In the order of the rows, each
page of a file would go to disk several times, which takes longer than the poolings.
"""

import hashlib
import json
import mmap
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from litpool import CACHE, InputError, JobError, __version__
from litpool.data.batches import TOKENS, Collator, EvaluationOrder
from litpool.data.module import TextDataModule
from litpool.disk import failure
from litpool.loops.progress import ProgressLines
from litpool.model.encoder import Encoder
from litpool.tools.study.grid import Cell, pool, settings

if TYPE_CHECKING:
    from datasets import Dataset

Files = dict[int, NDArray[np.float32]]  # by size d, those cells in order: (cells, K, n, d)
Vectors = dict[Cell, NDArray[np.float32]]  # (K, n, d)
Step = TypeVar("Step")

ABANDONED = 3600  # seconds without a write after which a temporary folder is a killed run's


def check_cache() -> None:
    """Refuse a cache that cannot be written.

    Raises:
        InputError: The folder cannot be created or is not writable.
    """
    try:
        (CACHE / "vectors").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=CACHE / "vectors"):
            pass
    except OSError as error:
        raise InputError(
            f"{CACHE}: cannot be written ({error.strerror}); set LITPOOL_CACHE to another folder"
        ) from error


def encode(
    encoder: Encoder, cells: Sequence[Cell], data: TextDataModule, split: str, salt: str
) -> Vectors:
    """Return the vectors of a split's texts, mapped from the files in the cache.

    Args:
        encoder: In eval mode, on the device to compute on.
        cells: The poolings and layers to compute.
        data: The token ids.
        split: The split to encode.
        salt: The encoder's `fingerprint`.

    Raises:
        InputError: The disk of the cache has too little space.
        JobError: The cache cannot be written.
    """
    key = _key(data.encoded[split], cells, salt)
    folder = CACHE / "vectors" / key
    if not folder.exists():
        part = folder.with_name(f"{key}.{os.getpid()}.part")
        _remove_abandoned(folder.parent)
        try:
            _write(encoder, cells, data, split, _create(part, cells, data.encoded[split]))
            part.rename(folder)
        except OSError as error:
            if not folder.exists():  # otherwise another run was faster
                raise JobError(
                    f"{failure(folder, error)}, or set LITPOOL_CACHE to another folder"
                ) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return {
        cell: vectors
        for size, group in by_size(cells).items()
        for cell, vectors in zip(group, np.load(folder / f"{size}.npy", mmap_mode="r"), strict=True)
    }


def order(encoded: "Dataset") -> NDArray[np.int64]:
    """Return the rows of a split in the order of the files."""
    return np.concatenate(EvaluationOrder(encoded["length"], len(encoded)).batches)


def by_size(cells: Sequence[Cell]) -> dict[int, list[Cell]]:
    """Group the cells by the size of their vectors."""
    groups: dict[int, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.module.out_features, []).append(cell)
    return groups


def fingerprint(encoder: Encoder) -> str:
    """Hash all that turns token ids into vectors: weights, config, device, versions."""
    config = encoder.config.to_dict()
    config.pop("_name_or_path", None)
    facts = [
        "longest first",
        config,
        next(encoder.parameters()).device.type,
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
    """Hash what the vectors of a split depend on."""
    facts = [salt, [(settings(cell.module), cell.layer, cell.static) for cell in cells]]
    digest = hashlib.sha256(json.dumps(facts).encode())
    columns = [name for name in TOKENS if name in encoded.column_names]
    for rows in encoded.select_columns(columns).iter(10_000):
        digest.update(json.dumps(rows).encode())
    return digest.hexdigest()[:32]


def _remove_abandoned(cache: Path) -> None:
    """Remove the temporary folders of killed runs."""
    cache.mkdir(parents=True, exist_ok=True)
    for part in cache.glob("*.part"):
        last_write = max((path.stat().st_mtime for path in [part, *part.glob("*")]), default=0.0)
        if time.time() - last_write > ABANDONED:
            shutil.rmtree(part, ignore_errors=True)


def _create(part: Path, cells: Sequence[Cell], encoded: "Dataset") -> Files:
    """Create empty files for the vectors, if the disk has space for them."""
    first = encoded[0]["input_ids"]
    texts = len(first) if isinstance(first[0], list) else 1  # K
    shapes = {
        size: (len(group), texts, len(encoded), size) for size, group in by_size(cells).items()
    }
    needed = sum(4 * int(np.prod(shape)) for shape in shapes.values())  # bytes
    free = shutil.disk_usage(part.parent).free
    if needed > free:
        raise InputError(
            f"the vectors need {needed / 1e9:.1f} GB, but {part.parent} has {free / 1e9:.1f} GB "
            "free; set LITPOOL_CACHE to a folder with more space, or use fewer texts "
            "(data.max_rows)"
        )
    part.mkdir()
    files: Files = {}
    for size, shape in shapes.items():
        path = part / f"{size}.npy"
        files[size] = np.lib.format.open_memmap(path, "w+", np.float32, shape)
        _allocate(path)
    return files


def _allocate(path: Path) -> None:
    """Take the space of a file now, as a full disk would end the process that writes to memory."""
    if hasattr(os, "posix_fallocate"):
        with path.open("rb+") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


@torch.inference_mode()
def _write(
    encoder: Encoder, cells: Sequence[Cell], data: TextDataModule, split: str, files: Files
) -> None:
    """Encode a split batch by batch, longest texts first, so that it runs out of memory at once."""
    device = next(encoder.parameters()).device
    start = 0
    loader = batches(data, split)
    for batch in follow(loader, f"encoding {split}", len(loader), "batch"):
        vectors = pool(cells, encoder, {key: value.to(device) for key, value in batch.items()})
        end = start + len(batch["input_ids"])
        for size, file in files.items():
            group = [part for part in vectors if part.shape[-1] == size]  # each (B, K, d)
            file[:, :, start:end] = torch.stack(group).transpose(1, 2).cpu().numpy()
        release(files.values())
        start = end


def batches(data: TextDataModule, split: str) -> DataLoader[dict[str, Any]]:
    """Load a split as the data module does for evaluation: each text once, longest first."""
    encoded: Any = data.encoded[split]
    collate: Any = Collator(data.tokenizer)
    sampler = EvaluationOrder(encoded["length"], data.batch_size)
    return DataLoader(encoded, sampler=sampler, batch_size=None, collate_fn=collate)


def follow(steps: Iterable[Step], title: str, total: int, unit: str) -> Iterator[Step]:
    """Show how far some work is: a bar on a terminal, otherwise a line a minute."""
    bar = tqdm(steps, desc=title, total=total, leave=False, disable=not sys.stderr.isatty())
    lines = ProgressLines()
    for number, step in enumerate(bar, start=1):
        yield step
        if bar.disable:
            lines.scored(title, number, total, rows=0, unit=unit)


def release(files: Iterable[NDArray[np.float32]]) -> None:
    """Free the memory that mapped files take; their content stays on disk."""
    for file in files:
        mapped = getattr(file, "_mmap", None)
        if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
            mapped.madvise(mmap.MADV_DONTNEED)
