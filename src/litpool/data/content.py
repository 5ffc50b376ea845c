"""The content of a file: its bytes, unpacked, and its text, decoded."""

import codecs
import contextlib
import gzip
import io
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from litpool import InputError

GZIP = b"\x1f\x8b"  # how a gzip file begins
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
BLOCK_BYTES = 2**24  # of long lines in a block
SHOWN = 12  # characters before and after the first wrong byte


def check_encoding(name: str) -> None:
    """Refuse a name that Python does not know as an encoding of text."""
    try:
        b"a".decode(name, "replace")
    except (LookupError, ValueError) as error:
        raise InputError(
            f"data.encoding={name!r}: not an encoding that Python knows; "
            "give one such as utf-8, latin-1, cp1252, cp949 or utf-16"
        ) from error


@contextlib.contextmanager
def _reading(path: str) -> Iterator[None]:
    """Report what can go wrong while a file is read and unpacked."""
    try:
        yield
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(
            f"{path}: not a gzip file, or damaged ({error}); copy it again, or unpack it"
        ) from error
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}; name a file that exists and can be read"
        ) from error


def read_bytes(path: str) -> bytes:
    """Read a file, or standard input if `path` is `-`; what gzip has packed is unpacked."""
    with _reading(path):
        data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
        is_packed = path.lower().endswith(".gz") or data.startswith(GZIP)
        return gzip.decompress(data) if is_packed else data


def open_bytes(path: str) -> BinaryIO:
    """Open a file to be read in parts; standard input, and what is packed, is read at once."""
    if path == "-" or path.lower().endswith(".gz"):
        return io.BytesIO(read_bytes(path))
    with _reading(path):
        file = open(path, "rb")  # noqa: SIM115 (the caller closes it)
    if file.read(len(GZIP)) == GZIP:
        file.close()
        return io.BytesIO(read_bytes(path))
    file.seek(0)
    return file


def read_text(path: str, encoding: str) -> str:
    """Read the text of a file, or of standard input, without a byte order mark.

    Raises:
        InputError: The file cannot be read or decoded, or it is empty.
    """
    text = _decode(read_bytes(path), path, encoding).removeprefix("\ufeff")
    if not text.strip():
        raise InputError(f"{path}: empty; give at least one row")
    return text


def text_blocks(path: str, encoding: str, lines: int, quoting: bool) -> Iterator[tuple[str, int]]:
    """Read the text of a file, or of standard input, in blocks of lines.

    A block ends with a line that is not blank.

    Args:
        path: The file.
        encoding: How it encodes its characters; one that spreads a line end over several bytes,
            such as utf-16, gives a single block.
        lines: The least number of lines in a block; fewer if they are long.
        quoting: Whether line ends within double quotes do not end a block.

    Yields:
        The text of a block, and the number of lines before it.

    Raises:
        InputError: The file cannot be read or decoded, or it is empty.
    """
    if "\n".encode(encoding) != b"\n":
        yield read_text(path, encoding), 0
        return
    before = offset = quotes = 0  # lines and bytes before the block, quotes in it
    block: list[bytes] = []
    size = 0
    for line in _read_lines(path):
        block.append(line)
        size += len(line)
        quotes += quoting and line.count(b'"')
        is_full = len(block) >= lines or size >= BLOCK_BYTES
        if is_full and line.strip() and quotes % 2 == 0:
            yield _decode_block(block, path, encoding, offset), before
            before, offset = before + len(block), offset + size
            block, size, quotes = [], 0, 0
    text = _decode_block(block, path, encoding, offset)
    if text.strip():
        yield text, before
    elif not before:
        raise InputError(f"{path}: empty; give at least one row")


def _read_lines(path: str) -> Iterator[bytes]:
    """Yield the lines of a file, or of standard input; what gzip has packed is unpacked."""
    with _reading(path), contextlib.ExitStack() as stack:
        file = sys.stdin.buffer if path == "-" else stack.enter_context(open(path, "rb"))
        first = file.readline()
        if path.lower().endswith(".gz") or first.startswith(GZIP):
            if path == "-":
                file = io.BytesIO(gzip.decompress(first + file.read()))
            else:
                file = stack.enter_context(gzip.open(path))
            first = file.readline()
        yield first
        yield from file


def _decode_block(block: list[bytes], path: str, encoding: str, offset: int) -> str:
    text = _decode(b"".join(block), path, encoding, offset)
    return text if offset else text.removeprefix("\ufeff")


def _decode(data: bytes, path: str, encoding: str, offset: int = 0) -> str:
    """Decode a part of a file that begins at `offset`; propose another encoding if that fails."""
    try:
        return data.decode(encoding)
    except UnicodeError as error:
        start = min(getattr(error, "start", 0), len(data) - 1)
        proposal, sample = _propose_encoding(data, start, encoding)
        byte = f"byte 0x{data[start]:02x} at offset {offset + start}"
        raise InputError(
            f"{path}: not {encoding.upper()} ({byte}); "
            f"set --data.encoding {proposal} if {sample!r} reads right, "
            "else the encoding that the file was saved in"
        ) from error


def _propose_encoding(data: bytes, start: int, tried: str) -> tuple[str, str]:
    """Return an encoding of the bytes, and how it reads those around `start`."""
    if data.startswith(UTF_16):
        proposal = "utf-16"
    elif codecs.lookup(tried).name != "utf-8" and _decodes(data, "utf-8"):
        proposal = "utf-8"
    elif _is_korean(data):
        proposal = "cp949"
    elif any(0x80 <= byte < 0xA0 for byte in data) and _decodes(data, "cp1252"):
        proposal = "cp1252"  # in latin-1, these are control characters
    else:
        proposal = "latin-1"
    text = data.decode(proposal, "replace")
    place = len(data[:start].decode(proposal, "ignore"))
    return proposal, " ".join(text[max(0, place - SHOWN) : place + SHOWN].split())


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeError:
        return False
    return True


def _is_korean(data: bytes) -> bool:
    """Return whether cp949 reads the bytes, mostly as the common syllables, those of EUC-KR.

    It also reads some Western words, such as Änderung, but as rare syllables.
    """
    if not _decodes(data, "cp949"):
        return False
    common = _count_syllables(data.decode("euc-kr", "ignore"))
    return 2 * common > _count_syllables(data.decode("cp949"))


def _count_syllables(text: str) -> int:
    return sum("가" <= letter <= "힣" for letter in text)
