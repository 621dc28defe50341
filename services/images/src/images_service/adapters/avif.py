"""AVIF files: what libheif does not do.

It leaves the brightness of a picture without colours as it is in the file, where black may be 16 and white 235, as in
films. Boxes: ISO/IEC 23008-12 and "AV1 Image File Format"; the sequence header: AV1 bitstream specification, 5.5.
"""

from typing import Final

_SEQUENCE_HEADER: Final = 1  #: The type of an OBU, a unit of the AV1 bitstream.

_NCLX: Final = b"colrnclx"  #: Begins a box with the colour space, whose last byte tells the range.


def is_grey_of_films(data: bytes) -> bool:
    """Return whether the picture has no colours and a brightness of 16 to 235, or that at more bits."""
    configurations = list(_configurations(data))
    # Transparency is an image without colours, too: so all of the file's images have to be.
    if not configurations or not all(configuration[2] & 0x10 for configuration in configurations):
        return False
    at = data.find(_NCLX)
    if 0 <= at < len(data) - 15:
        return not data[at + 14] & 0x80
    return _header_has_range_of_films(configurations[0][4:])


def _configurations(data: bytes) -> list[bytes]:
    """The content of each "av1C" box; the first is mostly that of the picture."""
    found = []
    at = data.find(b"av1C", 0, 1 << 16)
    while at >= 4:
        length = int.from_bytes(data[at - 4 : at])
        content = data[at + 4 : at - 4 + length]
        if len(content) >= 4 and content[0] == 0x81:
            found.append(content)
        at = data.find(b"av1C", at + 4, 1 << 16)
    return found


def _header_has_range_of_films(units: bytes) -> bool:
    if len(units) < 2 or units[0] >> 3 & 15 != _SEQUENCE_HEADER:
        return False
    try:
        return not _full_range(_Bits(units[2:]))  # after the unit's header and its length, which is below 128
    except (IndexError, ValueError):
        return False


class _Bits:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, number: int) -> int:
        value = 0
        for _ in range(number):
            value = value << 1 | self._data[self._at >> 3] >> (7 - self._at % 8) & 1
            self._at += 1
        return value


def _full_range(bits: _Bits) -> bool:
    """The flag color_range of a picture without colours; ``ValueError`` for headers that pictures do not have."""
    profile, _, reduced = bits.take(3), bits.take(1), bits.take(1)
    if not reduced:
        _skip_levels(bits)
    else:
        bits.take(5)
    across, down = bits.take(4), bits.take(4)
    bits.take(across + down + 2)
    if not reduced and bits.take(1):  # frames have numbers
        bits.take(7)
    bits.take(3)
    if not reduced:
        _skip_prediction(bits)
    bits.take(3)
    many_bits = bits.take(1)
    if profile == 2 and many_bits:
        bits.take(1)
    if profile == 1 or not bits.take(1):
        raise ValueError("not without colours")
    if bits.take(1):
        bits.take(24)
    return bool(bits.take(1))


def _skip_levels(bits: _Bits) -> None:
    if bits.take(1):
        raise ValueError("times of frames")
    delays = bits.take(1)
    for _ in range(bits.take(5) + 1):
        bits.take(12)
        if bits.take(5) > 7:
            bits.take(1)
        if delays and bits.take(1):
            bits.take(4)


def _skip_prediction(bits: _Bits) -> None:
    bits.take(4)
    ordered = bits.take(1)
    if ordered:
        bits.take(2)
    screen = 2 if bits.take(1) else bits.take(1)
    if screen and not bits.take(1):
        bits.take(1)
    if ordered:
        bits.take(3)
