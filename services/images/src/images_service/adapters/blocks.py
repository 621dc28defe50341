"""Blocks of GIF files and chunks of PNG files: what libvips does not tell about them.

Of an animation that was cut off, it counts the frames that are left, and of an animated PNG it reads the first frame.
Blocks of GIF: GIF89a specification, 17 to 27; chunks of PNG: PNG specification, 5 and 11.
"""

import struct
from collections.abc import Iterator
from typing import Final

from jobkit.contracts.images import SourceFormat

_EXTENSION: Final = 0x21
_IMAGE: Final = 0x2C
_TRAILER: Final = 0x3B
_CONTROL: Final = 0xF9  #: Label of the extension that describes the next image.

#: A transparent pixel in the upper left corner: a control extension, and an image of 1 x 1 with two colours.
_TRANSPARENT_FRAME: Final = bytes.fromhex("21f9040100000000 2c00000000010001008000000000000002024401 00")


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


def with_transparent_frame(data: bytes) -> bytes | None:
    """Return a GIF with a further, transparent frame at its end if the first frame does not fill its canvas.

    None if it does, or if a frame names a transparent colour. Viewers show nothing where no frame has drawn, but
    libvips shows black unless the file has transparency.
    """
    first: tuple[int, int, int, int] | None = None
    try:
        for introducer, at in _gif_blocks(data):
            if introducer == _TRAILER:
                width, height = struct.unpack_from("<HH", data, 6)
                fills = first is None or (first[:2] == (0, 0) and first[2] >= width and first[3] >= height)
                return None if fills else data[:at] + _TRANSPARENT_FRAME + data[at:]
            if introducer == _EXTENSION and data[at + 1] == _CONTROL and data[at + 3] & 1:
                return None
            if introducer == _IMAGE and first is None:
                first = struct.unpack_from("<4H", data, at + 1)
    except (IndexError, struct.error):
        pass  # truncated, which is told later
    return None


def _gif_has_end(data: bytes) -> bool:
    return any(introducer == _TRAILER or data[at : at + 4] == b"GIF8" for introducer, at in _gif_blocks(data))


def _gif_blocks(data: bytes) -> Iterator[tuple[int, int]]:
    """Introducer and place of each block up to the trailer, or to what is no block; ``IndexError`` at an early end."""
    at = 13 + _colours(data[10])
    while True:
        introducer = data[at]
        if introducer == 0x00:  # a terminator too many, which decoders pass over
            at += 1
            continue
        yield introducer, at
        if introducer == _EXTENSION:
            at += 2
        elif introducer == _IMAGE:
            at += 11 + _colours(data[at + 9])
        else:  # the trailer, or another file begins
            return
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
