"""Text files: their encoding, their lines, and the place of a byte that is not of the encoding."""

import codecs
import os
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from etl_service.errors import SourceUnreadable

_BLOCK = 1 << 20

#: Byte order marks that say more than "UTF-8" (https://www.unicode.org/faq/utf_bom.html).
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",  # begins with that of UTF-16, so it comes first
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}

#: Bytes that tell whether something is text.
_SAMPLE = 1 << 14

#: Categories of Unicode that text hardly has: controls, not assigned, for private use.
_NO_CHARACTERS = frozenset({"Cc", "Cn", "Co"})

#: One in so many characters of a text may be of them, such as a few NUL characters.
_RAREST = 20

#: What browsers take these names for, as most who write them mean it (https://encoding.spec.whatwg.org/#names-and-labels).
_MEANT = {"iso8859-1": "cp1252", "ascii": "cp1252"}


def encoding_of(path: Path, given: str | None) -> str:
    """Return the encoding: the given one, else that of the byte order mark, else UTF-8."""
    if given is not None:
        return "utf-8-sig" if codecs.lookup(given).name == "utf-8" else given
    with path.open("rb") as file:
        start = file.read(4)
    return next((name for mark, name in _MARKS.items() if start.startswith(mark)), "utf-8-sig")


def served_encoding(path: Path, charset: str | None) -> str | None:
    """Return the encoding that a server's ``charset`` stands for, if the file needs one.

    Servers add a charset that nobody has chosen for the file, so UTF-8 comes first: bytes of another encoding are
    hardly ever valid UTF-8.
    """
    if charset is None:
        return None
    try:
        name = codecs.lookup(charset).name
        b"".decode(name)
    except (LookupError, ValueError):
        return None
    if name == "utf-8" or encoding_of(path, None) != "utf-8-sig":
        return None
    if name.startswith(("utf-16", "utf-32")):
        return name
    return None if _first_bad_byte(path, "utf-8-sig") is None else _MEANT.get(name, name)


def guessed_encoding(path: Path, given: str | None) -> tuple[str, bool]:
    """Return the encoding of a text, and whether it is more than a guess.

    Raises:
        SourceUnreadable: it has no encoding that can be told, or is no text.
    """
    if given is not None:
        return given, True
    marked = encoding_of(path, None)
    if marked != "utf-8-sig":
        return marked, True
    with path.open("rb") as file:
        start = file.read(_BLOCK)
    possible = ["utf-8", "cp1252", "latin-1"]
    if b"\0" in start:  # the upper byte of Latin letters, digits and the ends of lines
        upper, lower = start[1::2].count(0), start[::2].count(0)
        possible = ["utf-8"] + ["utf-16-le"] * (upper > 10 * lower) + ["utf-16-be"] * (lower > 10 * upper)
    for name in possible:
        if _first_bad_byte(path, name) is None and _is_text(start[:_SAMPLE].decode(name, "ignore")):
            return name, name == "utf-8"
    raise SourceUnreadable(
        "the source is no text of an encoding that can be told: name its encoding, if it is CSV or JSON Lines at all"
    )


def _is_text(sample: str) -> bool:
    odd = sum(unicodedata.category(one) in _NO_CHARACTERS and not one.isspace() for one in sample)
    return odd * _RAREST <= len(sample)


@contextmanager
def opened(path: Path, encoding: str, *, newline: str) -> Iterator[TextIO]:
    """Open a text.

    Raises:
        SourceUnreadable: a byte in it is not of the encoding. The text names line and offset.
    """
    try:
        with path.open(encoding=encoding, newline=newline) as text:
            yield text
    except UnicodeError as error:  # UTF-16 without a mark raises another than UnicodeDecodeError
        place = _first_bad_byte(path, encoding)
        if place is None:
            raise SourceUnreadable(f"the source is not {_shown(encoding)} text: {error}") from error
        line, offset, byte = place
        with path.open("rb") as file:
            is_binary = b"\0" in file.read(_BLOCK) and not encoding.lower().startswith(("utf-16", "utf-32"))
        remedy = "convert it to UTF-8, or name its encoding in the job"
        raise SourceUnreadable(
            f"the source is not {_shown(encoding)} text (byte 0x{byte} in line {line}, offset {offset}): "
            + (f"it has zero bytes, so check the format in the job, or {remedy}" if is_binary else remedy)
        ) from error


def part_read(text: TextIO, size: int) -> float:
    """Return the part of a file of ``size`` bytes that has been read, 0 to 1."""
    return min(1.0, os.lseek(text.fileno(), 0, os.SEEK_CUR) / max(1, size))


def lines(text: TextIO, longest: int) -> Iterator[tuple[str, bool]]:
    """Yield each line, and whether it was cut because it has more than ``longest`` characters."""
    while line := text.readline(longest):
        cut = len(line) == longest and not line.endswith(("\n", "\r"))
        yield line, cut
        while cut and (rest := text.readline(_BLOCK)):
            if rest.endswith(("\n", "\r")) or len(rest) < _BLOCK:
                break


def _first_bad_byte(path: Path, encoding: str) -> tuple[int, int, str] | None:
    """Return line (from 1), offset (from 0) and hexadecimal value of the first byte that is not of the encoding."""
    decoder = codecs.getincrementaldecoder(encoding)()
    line, start = 1, 0  # of what the decoder has not yet returned
    with path.open("rb") as file:
        while True:
            block = file.read(_BLOCK)
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                good = error.object[: error.start]
                before = good.decode(encoding, "ignore").count("\n")
                return line + before, start + error.start, error.object[error.start : error.start + 1].hex()
            except UnicodeError:
                return None
            if not block:
                return None
            line += text.count("\n")
            start = file.tell() - len(decoder.getstate()[0])


def _shown(encoding: str) -> str:
    return "UTF-8" if encoding == "utf-8-sig" else encoding
