"""TIFF files: which pictures are in one, and which of them is meant.

libvips reads one directory after another and does not tell previews from pages, nor numbers from brightness. Tags and
their values: TIFF 6.0; TIFF/EP and DNG 1.7 for raw files; BigTIFF for 8-byte offsets.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from images_service.errors import ImpossibleOperation, UnsupportedPixels

#: More directories than this are not looked at; a file of that many pages is no picture.
MAX_DIRECTORIES: Final = 10_000

_SUBFILE, _OLD_SUBFILE = 254, 255
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_SAMPLES, _TILE_WIDTH = 277, 322
_FILL_ORDER, _ORIENTATION, _PLANES, _UNIT = 266, 274, 284, 296
_SUB_DIRECTORIES, _EXTRA_SAMPLES, _SAMPLE_FORMAT, _DNG_VERSION = 330, 338, 339, 50706
_EXIF, _COLOUR_SPACE, _INTEROPERABILITY, _INTEROPERABILITY_INDEX = 34665, 40961, 40965, 1

#: Values that libtiff refuses together with the whole file, and the default that TIFF 6.0 gives for the tag.
_RANGES: Final = {_FILL_ORDER: (2, 1), _ORIENTATION: (8, 1), _PLANES: (2, 1), _UNIT: (3, 2)}

#: Bytes of one value, by the field's type.
_SIZES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_NUMBERS: Final = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 18: "Q"}

OLD_JPEG: Final = 6  #: JPEG as TIFF 6.0 had it, before technical note 2.

_JPEG: Final = frozenset({OLD_JPEG, 7})

_COMMON_COMPRESSIONS: Final = frozenset({1, 2, 3, 4, 5, 7, 8, 32773, 32946})
_RARE_COMPRESSIONS: Final = {
    OLD_JPEG: "JPEG as in TIFF 6.0",
    34661: "JBIG",
    34712: "JPEG 2000",
    34925: "LZMA",
    34887: "LERC",
    50000: "Zstandard",
    50001: "WebP",
    52546: "JPEG XL",
}

_SENSOR: Final = frozenset({32803, 34892})  #: Photometric interpretations of raw data: colour filter array, linear raw.
_YCBCR: Final = 6  #: libvips reads it only with JPEG compression; otherwise it takes the values for RGB.
_CIELAB: Final = 8
_COLOURS: Final = frozenset({0, 1, 2, 3, 4, 5, 6, _CIELAB})
#: Channels that the colours take, by photometric interpretation. Further ones are described by ExtraSamples.
_CHANNELS: Final = {0: 1, 1: 1, 2: 3, 3: 1, 4: 1, 5: 4, _YCBCR: 3, _CIELAB: 3}
_ALPHA: Final = frozenset({1, 2})  #: Values of ExtraSamples for transparency; 0 is "unspecified".
_COLOUR_NAMES: Final = {9: "ICCLab", 10: "ITULab", 32844: "LogL", 32845: "LogLuv"}
_NUMBER_NAMES: Final = {2: "signed integers", 3: "floating-point numbers", 5: "complex integers", 6: "complex numbers"}


#: What following an offset raises that leads out of the file.
_LEADS_NOWHERE: Final = (struct.error, IndexError, ValueError, OverflowError)


@dataclass(frozen=True)
class Directory:
    """One image of the file.

    Attributes:
        page: Its place in the chain of directories, from 0.
        offset: Where the directory begins in the file; of one below a page, that of the page.
        below: Its place among the sub-directories of that page, from 0; None for the page itself.
        width: In pixels.
        height: In pixels.
        reduced: Whether the file marks it as a smaller copy of another image.
        mask: Whether the file marks it as a mask of another image.
        bits: Per channel.
        numbers: The tag SampleFormat: 1 for unsigned integers, 4 for "undefined".
        photometric: The tag PhotometricInterpretation.
        compression: The tag Compression.
        tiled_planes: Whether each channel has tiles of its own, which libvips does not read.
        channels: All of them.
        further: How many of these are no colours.
        alpha: Whether the first of the further ones is transparency.
    """

    page: int
    offset: int
    below: int | None
    width: int
    height: int
    reduced: bool
    mask: bool
    bits: int
    numbers: int
    photometric: int
    compression: int
    tiled_planes: bool
    channels: int
    further: int
    alpha: bool

    @property
    def rare_compression(self) -> str | None:
        """The name of a compression that not every libtiff can decode; None for a common one."""
        if self.compression in _COMMON_COMPRESSIONS:
            return None
        return _RARE_COMPRESSIONS.get(self.compression, f"number {self.compression}")

    @property
    def size(self) -> str:
        """Width and height for a reader."""
        return f"{self.width} x {self.height}"

    @property
    def options(self) -> dict[str, int]:
        """What libvips' loader needs to read it."""
        return {"page": self.page} if self.below is None else {"page": self.page, "subifd": self.below}

    def check(self, name: str) -> None:
        """Raise ``UnsupportedPixels`` if its values have no defined brightness or are not read here."""
        if self.photometric not in _COLOURS:
            colours = _COLOUR_NAMES.get(self.photometric, f"of the kind {self.photometric}")
            raise UnsupportedPixels(f"{name!r} has colours that are not read here ({colours}): convert it to RGB.")
        if self.photometric == _YCBCR and self.compression not in _JPEG:
            raise UnsupportedPixels(
                f"{name!r} has YCbCr colours outside of JPEG compression, which are not read: convert it to RGB."
            )
        if self.further > 1:
            raise UnsupportedPixels(f"{name!r} has {self.channels} channels: only colours and transparency are read.")
        if self.tiled_planes:
            raise UnsupportedPixels(
                f"{name!r} has tiles of single channels (PlanarConfiguration 2), which are not read: convert it to "
                "tiles of all channels, or to strips."
            )
        if self.photometric == _CIELAB:
            if self.bits == 8:
                raise UnsupportedPixels(
                    f"{name!r} has CIELab colours of 8 bits, which are not read: convert it to RGB."
                )
            return  # 16 bits and floating point have defined values there
        what = _NUMBER_NAMES.get(self.numbers)
        if what is not None:
            raise UnsupportedPixels(
                f"{name!r} holds {what} of {self.bits} bits, whose brightness no rule defines: convert it to unsigned "
                "integers of 8 or 16 bits."
            )
        if self.bits not in (1, 2, 4, 8, 16):
            raise UnsupportedPixels(
                f"{name!r} holds integers of {self.bits} bits; 1, 2, 4, 8 and 16 are read: convert it to one of these."
            )


@dataclass(frozen=True)
class Contents:
    """What is in a TIFF file.

    Attributes:
        directories: All images, in the order of the file.
        raw: What kind of raw camera file it is; None if it is none.
        adobe_rgb: Whether its EXIF data names Adobe RGB as the colour space.
        whole: Whether all directories could be followed.
    """

    directories: tuple[Directory, ...]
    raw: str | None
    adobe_rgb: bool
    whole: bool

    @property
    def chain(self) -> tuple[Directory, ...]:
        """All pages, previews and masks among them."""
        return tuple(found for found in self.directories if found.below is None)

    @property
    def pictures(self) -> tuple[Directory, ...]:
        """The pages that are neither previews nor masks; all of them if none is left."""
        return tuple(found for found in self.chain if not found.reduced and not found.mask) or self.chain

    @property
    def full_below(self) -> tuple[Directory, ...]:
        """The images in directories below the pages that are neither previews nor masks."""
        return tuple(
            found for found in self.directories if found.below is not None and not found.reduced and not found.mask
        )

    def choose(self, name: str, page: int | None) -> Directory:
        """Return the page that was asked for, from 1, or the first full picture.

        Raises:
            UnsupportedPixels: it is a camera's raw file, of which only previews could be read.
            ImpossibleOperation: it has no such page.
        """
        largest = max(self.directories, key=lambda found: found.width * found.height)
        if self.raw is not None:
            raise UnsupportedPixels(
                f"{name!r} is a raw file of a camera ({self.raw}), whose picture of {largest.size} pixels has to be "
                "developed first: convert it to JPEG or TIFF."
            )
        if page is not None:
            if page > len(self.chain):
                raise ImpossibleOperation(f"{name!r} has {len(self.chain)} pages, and page {page} was asked for.")
            return self.chain[page - 1]
        first = self.pictures[0]
        # A preview may hold the full picture in a directory below it (TIFF/EP).
        if first.reduced and self.full_below:
            return max(self.full_below, key=lambda found: found.width * found.height)
        return first


def contents(data: bytes) -> Contents | None:
    """Return what is in a TIFF file, as far as its offsets can be followed; None if no directory can be."""
    reader = _Reader(data)
    found, raw, adobe, whole = [], reader.signature, False, False
    with suppress(*_LEADS_NOWHERE):
        for page, (offset, tags) in enumerate(reader.chain(reader.first)):
            found.append(_directory(page, offset, None, tags))
            raw = raw or _raw(tags)
            with suppress(*_LEADS_NOWHERE):
                adobe = adobe or reader.names_adobe_rgb(tags)
            for below, start in enumerate(tags.get(_SUB_DIRECTORIES, ())):
                if start == offset:
                    continue
                with suppress(*_LEADS_NOWHERE):
                    tags_below = reader.tags(start)[0]
                    found.append(_directory(page, offset, below, tags_below))
                    raw = raw or _raw(tags_below)
        whole = True
    return Contents(tuple(found), raw, adobe, whole) if found else None


def alone(data: bytes, wanted: Directory) -> bytes:
    """Return the file with the page of ``wanted`` as its only one.

    libvips reads the directories of all pages, and fails if libtiff cannot decode one of the others.
    """
    changed = bytearray(data)
    _Reader(data).leave_one(changed, wanted.offset)
    return bytes(changed)


def mended(data: bytes) -> bytes:
    """Return the file with values that mean nothing, such as an orientation of 0, replaced by the tag's default."""
    changed = bytearray(data)
    reader = _Reader(data)
    with suppress(*_LEADS_NOWHERE):
        for offset, _ in reader.chain(reader.first):
            for tag, kind, count, at in reader.entries(offset):
                highest, default = _RANGES.get(tag, (0, 0))
                if not highest or kind != 3 or count != 1:
                    continue
                (value,) = struct.unpack_from(reader.order + "H", data, at)
                if not 1 <= value <= highest:
                    struct.pack_into(reader.order + "H", changed, at, default)
    return bytes(changed) if changed != data else data


def _directory(page: int, offset: int, below: int | None, tags: dict[int, tuple[int, ...]]) -> Directory:
    def first(tag: int, default: int) -> int:
        return (tags.get(tag) or (default,))[0]

    subfile, old = first(_SUBFILE, 0), first(_OLD_SUBFILE, 0)
    photometric, samples = first(_PHOTOMETRIC, 1), first(_SAMPLES, 1)
    return Directory(
        page=page,
        offset=offset,
        below=below,
        width=first(_WIDTH, 0),
        height=first(_HEIGHT, 0),
        reduced=bool(subfile & 1) or old == 2,
        mask=bool(subfile & 4),
        bits=max(tags.get(_BITS, (1,)), default=1),
        numbers=first(_SAMPLE_FORMAT, 1),
        photometric=photometric,
        compression=first(_COMPRESSION, 1),
        tiled_planes=_TILE_WIDTH in tags and first(_PLANES, 1) == 2 and samples > 1,
        channels=samples,
        further=max(0, samples - _CHANNELS.get(photometric, samples)),
        alpha=first(_EXTRA_SAMPLES, 1) in _ALPHA,  # some programs leave the tag out
    )


def _raw(tags: dict[int, tuple[int, ...]]) -> str | None:
    if _DNG_VERSION in tags:
        return "DNG"
    photometric = (tags.get(_PHOTOMETRIC) or (1,))[0]
    return "sensor data, as in NEF, ARW and PEF" if photometric in _SENSOR else None


class _Reader:
    """Follows the offsets of a file; raises ``struct.error`` or ``IndexError`` where they lead out of it."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.order = "<" if data[:2] == b"II" else ">"
        self._big = len(data) > 3 and data[2:4] in (b"+\0", b"\0+")
        self.signature = "CR2" if data[8:10] == b"CR" and not self._big else None

    @property
    def first(self) -> int:
        return self._number("Q", 8) if self._big else self._number("I", 4)

    def chain(self, offset: int) -> Iterator[tuple[int, dict[int, tuple[int, ...]]]]:
        """Offset and tags of each directory of the chain, each once."""
        seen: set[int] = set()
        while offset and offset not in seen and len(seen) < MAX_DIRECTORIES:
            seen.add(offset)
            tags, after = self.tags(offset)
            yield offset, tags
            offset = after

    def tags(self, offset: int) -> tuple[dict[int, tuple[int, ...]], int]:
        """The whole numbers of a directory by their tags, and the offset of the next directory."""
        found: dict[int, tuple[int, ...]] = {}
        for tag, kind, count, at in self.entries(offset):
            code = _NUMBERS.get(kind)
            if code is not None and count <= MAX_DIRECTORIES:
                with suppress(*_LEADS_NOWHERE):  # one value that leads nowhere says nothing about the others
                    found[tag] = struct.unpack_from(f"{self.order}{count}{code}", self._data, at)
        try:
            after = self._number("Q" if self._big else "I", self._end(offset))
        except (struct.error, OverflowError):
            after = 0
        return found, after

    def leave_one(self, changed: bytearray, offset: int) -> None:
        """Make the directory at ``offset`` the first and last one of the chain, in a copy of the file."""
        code = self.order + ("Q" if self._big else "I")
        struct.pack_into(code, changed, 8 if self._big else 4, offset)
        with suppress(struct.error):  # no more room in the file than for the end of the directory
            struct.pack_into(code, changed, self._end(offset), 0)

    def names_adobe_rgb(self, tags: dict[int, tuple[int, ...]]) -> bool:
        """Return whether EXIF data says so: by a colour space of 2, or by "R03" where it says nothing (DCF 2.0)."""
        for exif in tags.get(_EXIF, ()):
            found = self.tags(exif)[0]
            space = found.get(_COLOUR_SPACE, (0,))[0]
            if space in (1, 2):
                return space == 2
            for interoperability in found.get(_INTEROPERABILITY, ()):
                for tag, _, _, at in self.entries(interoperability):
                    if tag == _INTEROPERABILITY_INDEX:
                        return self._data[at : at + 3] == b"R03"
        return False

    def entries(self, offset: int) -> Iterator[tuple[int, int, int, int]]:
        """Tag, type, count and place of the value of each entry."""
        width, code, room = (20, "Q", 8) if self._big else (12, "I", 4)
        begin = offset + (8 if self._big else 2)
        for number in range(self._count(offset)):
            at = begin + width * number
            tag, kind = struct.unpack_from(self.order + "HH", self._data, at)
            count = self._number(code, at + 4)
            place = at + width - room
            if count * _SIZES.get(kind, 1) > room:
                place = self._number(code, place)
            yield tag, kind, count, place

    def _end(self, offset: int) -> int:
        """Where the offset of the next directory is."""
        number = self._count(offset)
        return offset + ((8 + 20 * number) if self._big else (2 + 12 * number))

    def _count(self, offset: int) -> int:
        count = self._number("Q" if self._big else "H", offset)
        if count > 65_535:
            raise ValueError("more entries than a directory has")
        return count

    def _number(self, code: str, at: int) -> int:
        return int(struct.unpack_from(self.order + code, self._data, at)[0])
