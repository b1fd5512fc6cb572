"""From the bytes of a file to its text: what is packed is unpacked, the encoding is found out.

UTF-8 is taken as it is. A byte-order mark, or the zeros of UTF-16, tell other Unicode encodings. Bytes that
are no UTF-8 and look like a western text are read as Windows-1252, which holds ISO 8859-1, and a note shows
one of the words; anything else needs dataset.encoding, since a wrong alphabet would be learned unnoticed.
"""

import bz2
import codecs
import gzip
import lzma
import re
import zlib
from pathlib import Path

from experiments.errors import UserError

PACKED = (".gz", ".bz2", ".xz")  # endings of files that are read through their compression
PARQUET = b"PAR1"

_UNPACK = ((b"\x1f\x8b", gzip.decompress), (b"BZh", bz2.decompress), (b"\xfd7zXZ\x00", lzma.decompress))
_MARKS = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_BINARY = (
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd. Unpack it: zstd -d"),
    (b"ARROW1", "is an Arrow file, not a table of text. Save it as Parquet, CSV or JSON lines"),
    (b"\xd0\xcf\x11\xe0", "is an old Excel or Office file. Save the sheet as CSV UTF-8"),
    (b"SQLite format 3", "is an SQLite database. Export the table as CSV"),
    (b"version https://git-lfs", "is a pointer of Git LFS, not the file itself. Fetch it: git lfs pull"),
    (b"<!DOCTYPE html", "is a web page, not a table. Download the file itself"),
    (b"<html", "is a web page, not a table. Download the file itself"),
    (b"%PDF", "is a PDF, not a table of text"),
    (b"\x80\x04\x95", "is a pickle, which could run code when opened and is not read. Save it as CSV"),
    (b"\x80\x05\x95", "is a pickle, which could run code when opened and is not read. Save it as CSV"),
)
_CONTROLS = (*range(9), *range(14, 27), 28, 29, 30, 31)  # bytes that hardly stand in a text
_LIKELY = 0.1  # of the characters of a western text, at most, are beyond ASCII


def unpacked(file: Path) -> bytes:
    """The content of a file, through gzip, bzip2 or xz where its first bytes are theirs."""
    data = file.read_bytes()
    for magic, unpack in _UNPACK:
        if data.startswith(magic):
            try:
                return unpack(data)
            except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
                raise UserError(f"{file} is damaged: {error}. Download or pack it again") from error
    return data


def text_of(file: Path, encoding: str | None = None) -> tuple[str, list[str]]:
    """The text of a file, and a note if its encoding had to be found out.

    Args:
        file: A text, or a compressed one.
        encoding: Its encoding; None: found out from the bytes.
    """
    data = unpacked(file)
    _refuse_binary(data, file)
    if encoding is not None:
        return _decoded(data, file, encoding), []
    for mark, name in _MARKS:
        if data.startswith(mark):
            notes = [] if name == "utf-8" else [f"{file.name} is read as {name[:-3]} (its byte-order mark)"]
            return _decoded(data, file, name), notes
    if wide := _wide(data):
        return _decoded(data, file, wide), [_guessed(file, wide)]
    try:
        return data.decode("utf-8"), []
    except UnicodeDecodeError as error:
        return _western(data, file, error)


def ending_of(file: Path) -> str:
    """The ending of a file's name in lower case, that of its compression left out."""
    packed = file.suffix.lower() in PACKED
    return (Path(file.stem) if packed else file).suffix.lower()


def lines_of(text: str) -> list[str]:
    r"""The lines of a text, as tables have them: \n, \r\n and \r end one, nothing else does."""
    lines = re.split(r"\r\n|\n|\r", text)
    return lines[:-1] if lines and not lines[-1] else lines


def _refuse_binary(data: bytes, file: Path) -> None:
    for magic, remark in _BINARY:
        if data.startswith(magic):
            raise UserError(f"{file} {remark}")
    if data.startswith(b"PK\x03\x04"):
        if b"xl/" in data:
            raise UserError(f"{file} is an Excel workbook. Save the sheet as CSV UTF-8 (File, Save as)")
        raise UserError(f"{file} is a zip archive. Unpack it and give the file or folder that it holds")
    if data.startswith(PARQUET):
        raise UserError(f"{file} is a Parquet table, not lines of text. Give it to dataset=csv")
    marked = any(data.startswith(mark) for mark, _ in _MARKS)
    if sum(map(data.count, _CONTROLS)) > max(4, len(data) // 50) and not marked and not _wide(data):
        raise UserError(
            f"{file} is a binary file, not a table of text. Save its table as CSV, JSON lines or Parquet"
        )


def _wide(data: bytes) -> str | None:
    """UTF-16 without its mark: of a text in a western language nearly every other byte is zero."""
    head = data[:4096]
    for name, zeros, others in (("utf-16-le", head[1::2], head[::2]), ("utf-16-be", head[::2], head[1::2])):
        if zeros and zeros.count(0) > 0.7 * len(zeros) and others.count(0) == 0:
            return name
    return None


def _decoded(data: bytes, file: Path, encoding: str) -> str:
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except LookupError as error:
        raise UserError(
            f"dataset.encoding={encoding} is no encoding that Python knows. Known are utf-8, utf-16, cp1252, "
            "latin-1 and many more"
        ) from error
    except UnicodeError as error:
        start = getattr(error, "start", 0)
        raise UserError(
            f"{file} is not {encoding} text: {getattr(error, 'reason', error)} at byte {start}, line "
            f"{data[:start].count(10) + 1}. Give its encoding: dataset.encoding=<name>"
        ) from error


def _western(data: bytes, file: Path, error: UnicodeDecodeError) -> tuple[str, list[str]]:
    """Bytes that are no UTF-8, as Windows-1252 if that makes a likely text."""
    line = data[: error.start].count(b"\n") + 1
    valid = sum(ord(sign) > 127 for sign in data.decode("utf-8", errors="ignore"))
    broken = data.decode("utf-8", errors="replace").count("\ufffd")
    if valid >= broken:
        raise UserError(
            f"{file}, line {line}: is UTF-8 text but for {broken} broken bytes (the first at byte "
            f"{error.start}). Restore that line, or convert the file: iconv -c -f utf-8 -t utf-8 "
            f"{file.name} > utf8_{file.name}"
        )
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError:
        text = ""
    odd = sum(ord(sign) > 127 for sign in text)
    if not text or odd > _LIKELY * len(text):
        raise UserError(
            f"{file}, line {line}: is not UTF-8 text, and its encoding cannot be detected. Give it: "
            f"dataset.encoding=<name> (cp1251, shift_jis, gb18030, latin-1, ...), or convert the file: "
            f"iconv -f <name> -t utf-8 {file.name} > utf8_{file.name}"
        )
    word = next(word for word in text.split() if any(ord(sign) > 127 for sign in word))
    shown = word.strip('",;|')[:30]
    return text, [_guessed(file, "cp1252", f", which makes words such as {shown!r}")]


def _guessed(file: Path, encoding: str, why: str = "") -> str:
    return f"{file.name} is not UTF-8 and is read as {encoding}{why} (guessed; dataset.encoding=... sets it)"
