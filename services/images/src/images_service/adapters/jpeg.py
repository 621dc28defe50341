"""JPEG files: harmless irregularities are mended, so that every warning of the decoder that remains means damage.

libjpeg warns of a hole in the data and of a header that cameras write wrong in the same way, and libvips can only fail
on all warnings or on none of them. Markers and their meaning: ITU-T T.81, annex B.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

SOI: Final = 0xD8
EOI: Final = 0xD9
SOS: Final = 0xDA
_APP0: Final = 0xE0
_APP14: Final = 0xEE

#: Start of frame; the others in this range are DHT (C4), JPG (C8) and DAC (CC).
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}

#: Frames that hold differences of pixels and no coefficients.
_LOSSLESS: Final = frozenset({0xC3, 0xC7, 0xCB, 0xCF})

#: Frames whose scans hold all of a coefficient: baseline and extended, by Huffman and arithmetic coding.
_SEQUENTIAL: Final = frozenset({0xC0, 0xC1, 0xC9})

_PROGRESSIVE: Final = frozenset({0xC2, 0xCA})

_BASELINE: Final = frozenset({0xC0, 0xC1})

#: What ends a scan: any marker that is no stuffed zero, no restart marker and no fill byte.
_END_OF_SCAN: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)

#: What follows a complete scan: libjpeg reads up to 8 bytes ahead. Set bits, which no code of JPEG consists of: a block
#: that is missing uses them up within a few codes, and the decoder runs out of data, which is an error.
_PADDING: Final = b"\xff\x00" * 8

#: Stray bytes after a scan that are no damage; of one repeated value there may be more. What overwrote or repeated a
#: part of the file mostly leaves hundreds.
_MOST_STRAYS: Final = 64


class _Segment(NamedTuple):
    marker: int
    begin: int  #: Where its content begins, after the length.
    end: int


def precision(data: bytes) -> int:
    """Return the bits per channel; 8 if no frame header is found."""
    for segment in _header(data):
        if segment.marker in _FRAMES and segment.end > segment.begin:
            return data[segment.begin]
    return 8


def can_shrink(data: bytes) -> bool:
    """Return whether a decoder can leave out detail. Of a lossless file libjpeg then gives wrong pixels."""
    return not any(segment.marker in _LOSSLESS for segment in _header(data))


def mended(data: bytes) -> bytes:
    """Return the file without what a decoder warns of although the picture is whole.

    Mended are stray bytes between the header's segments, the unused parameters of a sequential scan (some Samsung
    phones), an unknown revision of JFIF or colour transform of Adobe, and stray bytes after a baseline scan. A file
    whose structure is not understood is returned as it is. Of a grey picture, up to two blocks of 8 x 8 pixels in the
    lower right corner may be missing without a warning.
    """
    segments = list(_header(data))
    frame = next((segment for segment in segments if segment.marker in _FRAMES), None)
    if frame is None or not segments or segments[-1].marker != SOS:
        return data
    parts = [b"\xff\xd8"]
    for marker, begin, end in segments:
        channels = data[frame.begin + 5] if frame.begin + 5 < frame.end else 0
        content = _mended_segment(marker, data[begin:end], frame.marker, channels)
        parts.append(struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content)
    scan = segments[-1]
    rest = data[scan.end :]
    if frame.marker in _BASELINE and data[scan.begin] == data[frame.begin + 5]:  # all channels are in this one scan
        found = _END_OF_SCAN.search(rest)
        if found is None:
            return data[: scan.end]  # without the end marker it is not whole, which libjpeg does not always tell
        rest = rest[: found.start()] + _PADDING
    return b"".join((*parts, rest))


def has_all_scans(data: bytes) -> bool:
    """Return whether the scans of a progressive file give every bit of every coefficient; True for other files.

    One that was cut between two scans is blurred, and no decoder tells.
    """
    segments = list(_header(data))
    frame = next((segment for segment in segments if segment.marker in _FRAMES), None)
    if frame is None or frame.marker not in _PROGRESSIVE or segments[-1].marker != SOS:
        return True
    components = data[frame.begin + 6 : frame.end : 3]
    missing = {(component, coefficient) for component in components for coefficient in range(64)}
    marker, begin, end = segments[-1]
    while marker != EOI and begin <= end <= len(data):
        if marker == SOS and end - begin >= 4:
            first, last, bits = data[end - 3 : end]
            if bits & 15 == 0:
                named = data[begin + 1 : end - 3 : 2]
                missing -= {(each, coefficient) for each in named for coefficient in range(first, last + 1)}
        found = _END_OF_SCAN.search(data, end)
        if found is None:
            break
        marker, begin = data[found.start() + 1], found.start() + 4
        end = begin - 2 + int.from_bytes(data[begin - 2 : begin])
    return not missing


def without_most_strays(data: bytes) -> bytes | None:
    """Return what ``mended`` returned, shorter by more than the stray bytes that are no damage.

    If all of the picture can still be decoded, a part of its scan was overwritten or repeated: the decoder then often
    finds more blocks than the picture has, and warns of nothing. None for files of several scans.
    """
    begin = _begin_of_padded_scan(data)
    return None if begin is None else data[: max(begin, len(data) - len(_PADDING) - _MOST_STRAYS)]


def without_filler(data: bytes) -> bytes | None:
    """Return what ``mended`` returned without the one value that its scan ends with, if that is repeated often."""
    begin, end = _begin_of_padded_scan(data), len(data) - len(_PADDING)
    if begin is None:
        return None
    content = begin + len(data[begin:end].rstrip(data[end - 1 : end]))
    return data[:content] + _PADDING if end - content > _MOST_STRAYS else None


def _begin_of_padded_scan(data: bytes) -> int | None:
    segments = list(_header(data))
    return segments[-1].end if segments and segments[-1].marker == SOS and data.endswith(_PADDING) else None


def without_stray_end(data: bytes, warning: str) -> bytes | None:
    """Return the file without the bytes before its end marker that the decoder's ``warning`` counts.

    None if it speaks of something else, or of too many. This is for progressive files, whose scans cannot be told from
    their strays.
    """
    found = re.search(r"(\d+) extraneous bytes before marker 0xd9", warning)
    end = data.rfind(b"\xff\xd9")
    if found is None or end < int(found[1]):
        return None
    strays = data[end - int(found[1]) : end]
    if len(strays) > _MOST_STRAYS and len(set(strays)) > 1:
        return None
    return data[: end - len(strays)] + data[end:]


def _header(data: bytes) -> Iterator[_Segment]:
    """The segments up to and including the first start of scan, whatever lies between them."""
    at = 2
    while True:
        at = data.find(b"\xff", at)
        if at < 0 or at + 4 > len(data):
            return
        marker = data[at + 1]
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= SOI:
            at += 1
            continue
        if marker == EOI:
            return
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        if end < at + 4 or end > len(data):
            return
        yield _Segment(marker, at + 4, end)
        if marker == SOS:
            return
        at = end


def _mended_segment(marker: int, content: bytes, frame: int, channels: int) -> bytes:
    if marker == SOS and frame in _SEQUENTIAL:
        return content[:-3] + b"\x00\x3f\x00"
    if marker == _APP0 and content.startswith(b"JFIF\0") and len(content) >= 14 and content[5] not in (1, 2):
        return content[:5] + b"\x01" + content[6:]
    if marker == _APP14 and content.startswith(b"Adobe") and len(content) >= 12:
        usual = 2 if channels == 4 else 1  # YCCK, YCbCr; 0 is none
        if content[11] not in (0, usual):
            return content[:11] + bytes((usual,)) + content[12:]
    return content
