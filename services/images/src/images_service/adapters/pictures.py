"""Pictures: decoded, changed and encoded by libvips."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import pyvips  # type: ignore[import-untyped]  # it ships stubs, but no py.typed marker

from images_service.adapters.formats import Encoding, recognise
from images_service.errors import BrokenImage, ImpossibleOperation, SourceTooLarge, UnknownFormat
from jobkit.contracts.images import Crop, Gravity, Resize, SourceFormat

#: The decoders that may run; each reads the format of the same name. All others stay blocked.
LOADERS: dict[SourceFormat, str] = {
    "jpeg": "VipsForeignLoadJpeg",
    "png": "VipsForeignLoadPng",
    "webp": "VipsForeignLoadWebp",
    "gif": "VipsForeignLoadNsgif",
    "tiff": "VipsForeignLoadTiff",
}

#: The formats whose decoders can leave out detail that a smaller result has no room for.
SHRINK_ON_LOAD: frozenset[SourceFormat] = frozenset({"jpeg", "webp"})

#: Fail on damage instead of filling the rest with grey; libvips' default is to go on.
FAIL_ON = "error"

_GRAVITY: dict[Gravity, tuple[float, float]] = {
    "north-west": (0.0, 0.0),
    "north": (0.5, 0.0),
    "north-east": (1.0, 0.0),
    "west": (0.0, 0.5),
    "centre": (0.5, 0.5),
    "east": (1.0, 0.5),
    "south-west": (0.0, 1.0),
    "south": (0.5, 1.0),
    "south-east": (1.0, 1.0),
}


def confine_libvips() -> None:
    """Set what libvips may do in this process: one thread per image, no cache, five decoders.

    Processes and threads of the worker are the parallelism; a thread pool per image on top of them only adds
    switching. The cache would hold pixels of jobs that are done. Decoders for SVG, PDF and the like would read other
    files and have a history of holes (libvips documentation, "Security").
    """
    logging.getLogger("pyvips").setLevel(logging.WARNING)  # it reports every step of every picture
    pyvips.concurrency_set(1)
    pyvips.cache_set_max(0)
    pyvips.operation_block_set("VipsForeignLoad", True)
    for loader in LOADERS.values():
        pyvips.operation_block_set(loader, False)


@dataclass(frozen=True)
class Picture:
    """An upright picture in sRGB with 8 bits per channel. Changing it gives a new one.

    A fresh one is not decoded yet, so that a resize can decode at a fraction of the size (a JPEG at 1/2, 1/4 or 1/8).

    Attributes:
        name: What errors call it.
        width: In pixels.
        height: In pixels.
        max_pixels: No result may have more.
    """

    name: str
    format: SourceFormat
    width: int
    height: int
    max_pixels: int
    _pixels: pyvips.Image | None
    _source: bytes

    @classmethod
    def open(cls, data: bytes, name: str, *, max_pixels: int) -> Picture:
        """Read the header alone.

        Raises:
            UnknownFormat: the data is no image of the formats that are read here, or has further channels.
            BrokenImage: its header is damaged.
            SourceTooLarge: it has more than ``max_pixels``.
        """
        found = recognise(data, name)
        with _broken(name):
            header = _load(data, found)
        if header.bands > (5 if header.interpretation == "cmyk" else 4):
            raise UnknownFormat(f"{name!r} has {header.bands} channels: only colours and transparency are read.")
        width, height = header.width, header.height
        if width * height > max_pixels:
            raise SourceTooLarge(f"{name!r} has {width} x {height} pixels, and IMAGES_MAX_PIXELS allows {max_pixels}.")
        if _orientation(header) >= 5:  # EXIF 2.3, tag 0x0112: 5 to 8 lie on their side
            width, height = height, width
        return cls(name, found, width, height, max_pixels, None, data)

    def resize(self, wanted: Resize) -> Picture:
        """Scale it; see the contract's ``Resize``."""
        if wanted.width is not None and wanted.height is not None and wanted.fit == "stretch":
            return self._scaled(wanted.width, wanted.height)
        across = wanted.width / self.width if wanted.width else None
        down = wanted.height / self.height if wanted.height else None
        factors = [factor for factor in (across, down) if factor is not None]
        factor = max(factors) if wanted.fit == "cover" else min(factors)
        scaled = self._scaled(max(1, round(self.width * factor)), max(1, round(self.height * factor)))
        if wanted.fit == "cover" and wanted.width is not None and wanted.height is not None:
            return scaled.crop(Crop(width=wanted.width, height=wanted.height))
        return scaled

    def thumbnail(self, size: int) -> Picture:
        """A copy whose longer edge has ``size`` pixels, or fewer if the picture has fewer."""
        if max(self.width, self.height) <= size:
            return self
        return self.resize(Resize(width=size, height=size))

    def crop(self, wanted: Crop) -> Picture:
        """Cut a part out; see the contract's ``Crop``.

        Raises:
            ImpossibleOperation: the part is not wholly inside.
        """
        left, top, width, height = wanted.left, wanted.top, wanted.width, wanted.height
        if width + (left or 0) > self.width or height + (top or 0) > self.height:
            place = "" if left is None else f" at {left}, {top}"
            raise ImpossibleOperation(
                f"A crop of {width} x {height} pixels{place} is not inside the image of {self.width} x {self.height}."
            )
        pixels = self._decoded
        if wanted.gravity == "smart":
            return self._with(lambda: pixels.smartcrop(width, height, interesting="attention"))
        if left is None or top is None:
            across, down = _GRAVITY[wanted.gravity or "centre"]
            left, top = int((self.width - width) * across), int((self.height - height) * down)
        return self._with(lambda: pixels.crop(left, top, width, height))

    def encode(self, encoding: Encoding) -> bytes:
        """The whole file, without metadata.

        Raises:
            BrokenImage: the source turns out to be damaged.
            ImpossibleOperation: the format cannot hold an image of this size.
        """
        encoding.check_edges(self.width, self.height)
        pixels = self._decoded
        with _broken(self.name):
            if encoding.format == "jpeg" and pixels.hasalpha():
                pixels = pixels.flatten(background=list(encoding.background))
            suffix = f".{encoding.format}"
            return cast(bytes, pixels.write_to_buffer(suffix, keep="none", **encoding.options()))

    def _scaled(self, width: int, height: int) -> Picture:
        if width * height > self.max_pixels:
            raise ImpossibleOperation(
                f"The result would have {width} x {height} pixels, and IMAGES_MAX_PIXELS allows {self.max_pixels}."
            )
        if self._pixels is None and self.format in SHRINK_ON_LOAD:
            # As an option of the loader, because libvips 8.18 drops the thumbnailer's own fail_on for a JPEG.
            options = f"fail_on={FAIL_ON}"
            return self._with(
                lambda: pyvips.Image.thumbnail_buffer(
                    self._source, width, height=height, size="force", option_string=options
                )
            )
        pixels = self._decoded
        return self._with(lambda: pixels.thumbnail_image(width, height=height, size="force"))

    @cached_property
    def _decoded(self) -> pyvips.Image:
        if self._pixels is not None:
            return self._pixels
        with _broken(self.name):
            return _finished(_load(self._source, self.format))

    def _with(self, change: Callable[[], pyvips.Image]) -> Picture:
        # Each change is carried out before the next begins: so progress is true, and damage shows where it is.
        with _broken(self.name):
            pixels = _finished(change())
        return Picture(self.name, self.format, pixels.width, pixels.height, self.max_pixels, pixels, b"")


def _load(data: bytes, found: SourceFormat) -> pyvips.Image:
    load = getattr(pyvips.Image, f"{found}load_buffer")
    return load(data, access="sequential", fail_on=FAIL_ON)


def _orientation(image: pyvips.Image) -> int:
    return int(image.get("orientation")) if image.get_typeof("orientation") else 1


def _finished(image: pyvips.Image) -> pyvips.Image:
    """The image in memory, upright, as sRGB with 8 bits per channel."""
    if image.get_typeof("icc-profile-data"):
        # In place of a broken profile libvips takes one of its own.
        image = image.icc_transform("srgb", embedded=True, depth=8)
        image.remove("icc-profile-data")  # or the next operation would transform once more
    if image.interpretation != "srgb":
        image = image.colourspace("srgb")
    image = image.cast("uchar").copy_memory()
    return image.autorot().copy_memory() if _orientation(image) > 1 else image


@contextmanager
def _broken(name: str) -> Iterator[None]:
    try:
        yield
    except pyvips.Error as error:
        # libvips keeps one error text for all threads, so its words may be another job's: they stay in the traceback.
        raise BrokenImage(f"{name!r} is truncated or damaged: it cannot be decoded.") from error
