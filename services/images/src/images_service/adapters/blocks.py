"""Blocks of GIF files and chunks of PNG files: what libvips does not tell about them.

Of an animation that was cut off, it counts the frames that are left, and of an animated PNG it reads the first frame.
Blocks of GIF: GIF89a specification, 17 to 27; chunks of PNG: PNG specification, 5 and 11.
"""

from collections.abc import Iterator
from typing import Final

from jobkit.contracts.images import SourceFormat

_EXTENSION: Final = 0x21
_IMAGE: Final = 0x2C
_TRAILER: Final = 0x3B


def has_end(data: bytes, form: SourceFormat) -> bool:
    """Return whether the file goes on to its end marker. True for formats other than GIF and PNG."""
    try:
        match form:
            case "gif":
                return _gif_has_end(data)
            case "png":
                return _png_has_end(data)
            case _:
                return True
    except IndexError:
        return False


def png_frames(data: bytes) -> int:
    """Return the frames of a PNG; 1 of one without animation."""
    for kind, begin, end in _chunks(data):
        if kind == b"acTL" and end - begin >= 4:
            return max(1, int.from_bytes(data[begin : begin + 4]))
        if kind == b"IDAT":
            break
    return 1


def _gif_has_end(data: bytes) -> bool:
    at = 13 + _colours(data[10])
    while True:
        introducer = data[at]
        if introducer == 0x00:  # a terminator too many, which decoders pass over
            at += 1
            continue
        if introducer == _TRAILER or data[at : at + 4] == b"GIF8":  # or another file begins
            return True
        if introducer == _EXTENSION:
            at += 2
        elif introducer == _IMAGE:
            at += 11 + _colours(data[at + 9])
        else:
            return False
        while length := data[at]:
            at += 1 + length
        at += 1


def _colours(flags: int) -> int:
    """Bytes of the table of colours that the flags announce."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _png_has_end(data: bytes) -> bool:
    return any(kind == b"IEND" for kind, _, _ in _chunks(data))


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Type, begin and end of each whole chunk."""
    at = 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4])
        if end + 4 > len(data):
            return
        yield data[at + 4 : at + 8], at + 8, end
        at = end + 4
