"""Colour profiles that are named by a file without being in it."""

import struct
from functools import cache
from typing import Final

#: Of Adobe RGB (1998) Color Image Encoding, version 2005-05, 4.3.5: adapted to D50, as a profile holds them.
_PRIMARIES: Final = {
    b"rXYZ": (0.60974, 0.31111, 0.01947),
    b"gXYZ": (0.20528, 0.62567, 0.06087),
    b"bXYZ": (0.14919, 0.06322, 0.74457),
}
_D50: Final = (0.9642, 1.0, 0.8249)
_GAMMA: Final = 563  #: In 1/256.


@cache
def adobe_rgb() -> bytes:
    """Return a profile of version 2 that is compatible with Adobe RGB (1998); form: ICC.1:2001-04."""
    curve = struct.pack(">4sIIH", b"curv", 0, 1, _GAMMA).ljust(16, b"\0")
    name = b"Compatible with Adobe RGB (1998)\0"
    tags = {
        b"desc": struct.pack(">4sII", b"desc", 0, len(name)) + name + bytes(78),
        b"cprt": struct.pack(">4sI", b"text", 0) + b"No copyright\0",
        b"wtpt": _xyz(_D50),
        **{tag: _xyz(value) for tag, value in _PRIMARIES.items()},
        b"rTRC": curve,
        b"gTRC": curve,
        b"bTRC": curve,
    }
    table, content = b"", b""
    begin = 128 + 4 + 12 * len(tags)
    for tag, value in tags.items():
        table += struct.pack(">4sII", tag, begin + len(content), len(value))
        content += value + bytes(-len(value) % 4)
    body = struct.pack(">I", len(tags)) + table + content
    header = struct.pack(
        ">III4s4s4s6H4s28x12s",  # the 28 bytes: platform, flags, device, model, attributes, intent
        *(128 + len(body), 0, 0x02100000, b"mntr", b"RGB ", b"XYZ "),
        *(2000, 1, 1, 0, 0, 0),  # when it was made
        *(b"acsp", _numbers(_D50)),
    )
    return header.ljust(128, b"\0") + body


def _numbers(values: tuple[float, float, float]) -> bytes:
    return struct.pack(">3i", *(round(value * 65536) for value in values))


def _xyz(values: tuple[float, float, float]) -> bytes:
    return struct.pack(">4sI", b"XYZ ", 0) + _numbers(values)
