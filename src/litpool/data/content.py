"""The content of a file: its bytes, unpacked, and its text, decoded."""

import codecs
import gzip
import sys
import zlib
from pathlib import Path

from litpool import InputError

GZIP = b"\x1f\x8b"  # how a gzip file begins
UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
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


def read_bytes(path: str) -> bytes:
    """Read a file, or standard input if `path` is `-`; what gzip has packed is unpacked."""
    try:
        data = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}; name a file that exists and can be read"
        ) from error
    if not (path.lower().endswith(".gz") or data.startswith(GZIP)):
        return data
    try:
        return gzip.decompress(data)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(
            f"{path}: not a gzip file, or damaged ({error}); copy it again, or unpack it"
        ) from error


def read_text(path: str, encoding: str) -> str:
    """Read the text of a file, or of standard input, without a byte order mark.

    Raises:
        InputError: The file cannot be read or decoded, or it is empty.
    """
    data = read_bytes(path)
    try:
        text = data.decode(encoding).removeprefix("\ufeff")
    except UnicodeError as error:
        start = min(getattr(error, "start", 0), len(data) - 1)
        proposal, sample = _propose_encoding(data, start, encoding)
        raise InputError(
            f"{path}: not {encoding.upper()} (byte 0x{data[start]:02x} at offset {start}); "
            f"set --data.encoding {proposal} if {sample!r} reads right, "
            "else the encoding that the file was saved in"
        ) from error
    if not text.strip():
        raise InputError(f"{path}: empty; give at least one row")
    return text


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
