"""Sources: files as they were uploaded, and how libvips has to be told to read each."""

from __future__ import annotations

import io
import logging
import struct
from functools import cached_property
from typing import Any, Final, NamedTuple

import pyvips  # type: ignore[import-untyped]  # it ships stubs, but no py.typed marker
from PIL import Image

from images_service.adapters import avif, jpeg, tiff
from images_service.adapters.blocks import has_end, png_frames, with_transparent_frame
from images_service.adapters.formats import recognise
from images_service.adapters.profiles import adobe_rgb
from images_service.errors import BrokenImage, ImpossibleOperation, MissingDecoder, SourceTooLarge, UnsupportedPixels
from jobkit.contracts.images import SourceFormat

#: The decoders that may run; each reads the format of the same name, but HEIC is read by that of AVIF. All others stay
#: blocked. BMP is read by Pillow.
LOADERS: Final[dict[SourceFormat, str]] = {
    "jpeg": "VipsForeignLoadJpeg",
    "png": "VipsForeignLoadPng",
    "webp": "VipsForeignLoadWebp",
    "gif": "VipsForeignLoadNsgif",
    "tiff": "VipsForeignLoadTiff",
    "avif": "VipsForeignLoadHeif",
}

#: The formats whose decoders can leave out detail that a smaller result has no room for.
SHRINK_ON_LOAD: Final[frozenset[SourceFormat]] = frozenset({"jpeg", "webp"})

#: What fails in place of filling the rest with grey, which is libvips' default. For JPEG, ``jpeg.mended`` has removed
#: what a decoder warns of without harm.
_FAIL_ON: Final[dict[SourceFormat, str]] = {"jpeg": "warning"}

#: A first page is a preview of a later one if it has at most this share of its edges, and looks the same.
_PREVIEW_EDGE: Final = 0.6

#: Two pages look the same if their mean squared difference, at 32 x 32 grey pixels, is at most this share of the
#: contrast of one. Different pages of text differ by more than a half.
_ALIKE: Final = 0.1

#: Variance of grey values, of 255, below which a page counts as empty.
_EMPTY: Final = 4.0

#: What Pillow raises for a damaged file.
_PILLOW_FAILS: Final = (OSError, ValueError, SyntaxError, struct.error, IndexError)

#: Values of a bitmap's field biCompression for runs of equal pixels, of 8 and 4 bits.
_RUN_LENGTHS: Final = (1, 2)

logger = logging.getLogger(__name__)


def confine_libvips() -> None:
    """Set what libvips may do in this process: one thread per image, no cache, six decoders.

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


class Source:
    """A file of a known format whose header has been read.

    Args:
        data: The whole file.
        name: What errors call it.
        max_pixels: All frames that are read may have no more together.
        accept_damage: Whether a part that cannot be decoded is left grey, black or transparent.
        page: Of a TIFF, from 1; None for the first full picture.
        all_frames: Whether all frames of an animation are read, or the first.

    Attributes:
        format: The file's format.
        header: What libvips says of it before decoding.
        frames: Of an animation.
        frames_read: How many of them are read.
        pages: Of a TIFF, previews and masks included.
        page: The one that is read, from 1.
        damaged: Whether something could not be decoded so far.

    Raises:
        UnknownFormat: it is none of the formats that are read here, or holds no picture.
        BrokenImage: its header is damaged.
        SourceTooLarge: it has more than ``max_pixels``.
        ImpossibleOperation: it has no such page.
    """

    def __init__(
        self,
        data: bytes,
        name: str,
        *,
        max_pixels: int,
        accept_damage: bool = False,
        page: int | None = None,
        all_frames: bool = False,
    ) -> None:
        self.name = name
        self.format: SourceFormat = recognise(data, name)
        self.pages = self.page = self.frames = self.frames_read = 1
        self.damaged = False
        self._accept_damage = accept_damage
        self._max_pixels = max_pixels
        self._original = self._mended = data
        self._options: dict[str, int] = {}
        self._compression: str | None = None
        self._frames_added = 0  # at the end, and never read
        self._has_unspecified = False  # a last channel in a TIFF that is neither a colour nor transparency
        self._adobe_rgb = False  # as far as libvips does not tell, which reads no EXIF data of a TIFF
        if self.format == "jpeg":
            self._prepare_jpeg()
        elif self.format == "tiff":
            self._prepare_tiff(page)
        elif self.format == "bmp":
            self._prepare_bitmap()
        elif self.format == "gif":
            self._prepare_gif()
        if page is not None and self.format != "tiff" and page > 1:
            raise ImpossibleOperation(f"{name!r} has 1 page, and page {page} was asked for: only a TIFF has several.")
        self.header = self.load() if self.format != "bmp" else self._bitmap_header
        self._count_frames(all_frames)
        self._check_size(self.header.width, self.header.height)
        self._check_channels()
        if not has_end(data, self.format) or (self.format == "jpeg" and not jpeg.has_all_scans(data)):
            if not accept_damage:
                raise self._broken()
            self.damaged = True

    @cached_property
    def can_shrink(self) -> bool:
        """Whether its decoder can leave out detail that a smaller result has no room for."""
        return self.format in SHRINK_ON_LOAD and (self.format != "jpeg" or jpeg.can_shrink(self._original))

    def load(self, shrink: int = 1) -> pyvips.Image:
        """Return the image as it is in the file, decoded when its pixels are needed.

        Args:
            shrink: The part of its edges that suffices: 1, 2, 4 or 8.

        Raises:
            BrokenImage: it is damaged, as far as that shows before its pixels are read.
        """
        return self._load(shrink, strict=not self.damaged)

    def decoded(self, shrink: int = 1) -> pyvips.Image:
        """Return the image in memory.

        Raises:
            BrokenImage: it is damaged, and damage is not accepted, or nothing can be decoded.
            MissingDecoder: libvips cannot decode it here.
        """
        if not self.damaged:
            try:
                image = self._load(shrink, strict=True).copy_memory()
                if self._ends_in_time:
                    return image
                raise self._broken()
            except (pyvips.Error, BrokenImage) as error:
                strict = error
            if self.format == "jpeg" and self._mend_stray_end():
                return self.decoded(shrink)
            if not self._accept_damage or self.format == "heic":
                raise self._broken() from strict
            self.damaged = True
        try:
            return self._load(shrink, strict=False).copy_memory()
        except pyvips.Error as error:
            raise self._broken() from error

    def _load(self, shrink: int, *, strict: bool) -> pyvips.Image:
        options: dict[str, Any] = {**self._options, "access": "sequential"}
        options["fail_on"] = _FAIL_ON.get(self.format, "error") if strict else "none"
        if shrink > 1:
            options |= {"shrink": shrink} if self.format == "jpeg" else {"scale": 1 / shrink}
        data = self._mended if strict else self._original
        try:
            match self.format:
                case "bmp":
                    image = self._load_bitmap(strict=strict)
                case "heic" | "avif":
                    image = pyvips.Image.heifload_buffer(data, **options)
                case _:
                    image = getattr(pyvips.Image, f"{self.format}load_buffer")(data, **options)
        except pyvips.Error as error:
            if strict and self._accept_damage and not self.damaged:
                self.damaged = True
                return self._load(shrink, strict=False)
            raise self._broken() from error
        if self._has_unspecified and image.hasalpha():  # libvips takes any further channel for transparency
            image = image.extract_band(0, n=image.bands - 1)
        if self._is_grey_of_films:
            image = _with_full_range(image)
        return self._with_named_profile(image)

    def _prepare_jpeg(self) -> None:
        bits = jpeg.precision(self._original)
        if bits != 8:
            raise UnsupportedPixels(f"{self.name!r} is a JPEG of {bits} bits per channel; 8 are read.")
        self._mended = jpeg.mended(self._original)

    def _prepare_tiff(self, page: int | None) -> None:
        found = tiff.contents(self._original)
        self._original = self._mended = tiff.mended(self._original)
        if found is None:
            if page is not None:
                self._options, self.page = {"page": page - 1}, page
            return
        chosen = found.choose(self.name, page)
        if page is None:
            chosen = self._full_picture(found, chosen)
        chosen.check(self.name)
        self._options, self._compression = chosen.options, chosen.rare_compression
        if chosen.compression == tiff.OLD_JPEG:
            raise self._broken()  # of some such files, libvips makes a black image without an error
        self._adobe_rgb = found.adobe_rgb
        self._has_unspecified = chosen.further == 1 and not chosen.alpha
        if found.whole:
            self._original = self._mended = tiff.alone(self._original, chosen)
            self._options = {**self._options, "page": 0}
        self.page, self.pages = chosen.page + 1, len(found.chain)

    def _prepare_gif(self) -> None:
        changed = with_transparent_frame(self._original)
        if changed is not None:
            self._original = self._mended = changed
            self._frames_added = 1

    def _prepare_bitmap(self) -> None:
        try:
            with Image.open(io.BytesIO(self._original), formats=["BMP"]) as header:
                self._check_size(header.width, header.height)
                # Pillow decodes at once or not at all; until then, black pixels that nobody computes stand for it.
                form = _form(header.mode)
                black = pyvips.Image.black(header.width, header.height, bands=form.bands)
                self._bitmap_header = _named(black, form)
        except Image.DecompressionBombError as error:
            raise SourceTooLarge(f"{self.name!r}: {error}") from error
        except (*_PILLOW_FAILS, pyvips.Error) as error:
            raise self._broken() from error

    def _full_picture(self, found: tiff.Contents, first: tiff.Directory) -> tiff.Directory:
        """The first page, or the larger one that it is a preview of without saying so."""
        larger = [
            other
            for other in (*found.pictures, *found.full_below)
            if first.width <= other.width * _PREVIEW_EDGE and first.height <= other.height * _PREVIEW_EDGE
        ]
        if not larger:
            return first
        largest = max(larger, key=lambda other: other.width * other.height)
        if largest.width * largest.height > self._max_pixels:
            raise SourceTooLarge(
                f"{self.name!r} has {largest.size} pixels on page {largest.page + 1}, of which page {first.page + 1} "
                f"({first.size}) may be a preview, and IMAGES_MAX_PIXELS allows {self._max_pixels}: set the job's page "
                "to take another."
            )
        try:
            if self._difference(first, largest) <= _ALIKE:
                logger.info("%r: page %d is a preview of page %d.", self.name, first.page + 1, largest.page + 1)
                return largest
        except pyvips.Error:
            pass  # one of the two cannot be decoded, which is told later if it is the one that is meant
        return first

    def _difference(self, one: tiff.Directory, other: tiff.Directory) -> float:
        small = []
        for directory in (one, other):
            image = pyvips.Image.tiffload_buffer(self._mended, access="sequential", **directory.options)
            image = image.thumbnail_image(32, height=32, size="force").colourspace("b-w")
            small.append(image[0].cast("float").copy_memory())
        return float(((small[0] - small[1]) ** 2).avg()) / max(float(small[1].deviate()) ** 2, _EMPTY)

    @cached_property
    def _is_grey_of_films(self) -> bool:
        return self.format == "avif" and avif.is_grey_of_films(self._original)

    @cached_property
    def _ends_in_time(self) -> bool:
        """Whether the data is not longer than the picture, which tells of a part that was overwritten or repeated."""
        shorter = jpeg.without_most_strays(self._mended) if self.format == "jpeg" else None
        # An eighth of the size is decided faster, but the decoder then leaves the last rows out at some heights.
        if shorter is None or not (_decodes(shorter, shrink=8) and _decodes(shorter)):
            return True
        shorter = jpeg.without_filler(self._mended)
        return shorter is not None and _decodes(shorter)

    def _mend_stray_end(self) -> bool:
        # libvips keeps one error text for all threads, so this one may be of another job. That does no harm: what
        # counts is whether the shorter file decodes without any warning.
        shorter = jpeg.without_stray_end(self._mended, self._warning())
        if shorter is None:
            return False
        self._mended = shorter
        return True

    def _warning(self) -> str:
        pyvips.Error("")  # it takes and clears the text
        try:
            self._load(1, strict=True).copy_memory()
        except pyvips.Error as error:
            return str(error.detail)
        except BrokenImage as error:
            return str(getattr(error.__cause__, "detail", ""))
        return ""

    def _load_bitmap(self, *, strict: bool) -> pyvips.Image:
        data = self._mended
        try:
            with Image.open(io.BytesIO(data), formats=["BMP"]) as found:
                if not strict:  # what is missing is black
                    filled = data + _black(found, odd=len(data) % 2 == 1)
                    return _from_pillow(Image.open(io.BytesIO(filled), formats=["BMP"]))
                return _from_pillow(found)
        except _PILLOW_FAILS as error:
            raise pyvips.Error(f"bitmap: {error}") from error

    def _with_named_profile(self, image: pyvips.Image) -> pyvips.Image:
        """Cameras that write Adobe RGB say so in EXIF alone (DCF 2.0, "option files")."""
        if image.get_typeof("icc-profile-data"):
            return image
        space = _exif(image, "exif-ifd2-ColorSpace")
        named = (
            self._adobe_rgb
            or space.startswith("2")
            or (not space.startswith("1") and _exif(image, "exif-ifd4-InteroperabilityIndex").startswith("R03"))
        )
        if named and image.bands >= 3 and image.interpretation in ("srgb", "rgb", "rgb16"):
            image = image.copy()
            image.set_type(pyvips.GValue.blob_type, "icc-profile-data", adobe_rgb())
        return image

    def _count_frames(self, all_frames: bool) -> None:
        if self.format == "png":
            self.frames = png_frames(self._original)
        if self.format not in ("gif", "webp") or not self.header.get_typeof("n-pages"):
            return
        self.frames = int(self.header.get("n-pages")) - self._frames_added
        if all_frames and self.frames > 1:
            self.frames_read = self.frames
            self._options = {"n": self.frames}

    def _check_size(self, width: int, height: int) -> None:
        if width * height > self._max_pixels:
            raise SourceTooLarge(
                f"{self.name!r} has {width} x {height} pixels, and IMAGES_MAX_PIXELS allows {self._max_pixels}."
            )
        if width * height * self.frames_read > self._max_pixels:
            raise SourceTooLarge(
                f"{self.name!r} has {self.frames_read} frames of {width} x {height} pixels, and IMAGES_MAX_PIXELS "
                f"allows {self._max_pixels} together: send it with animation='first'."
            )

    def _check_channels(self) -> None:
        bands = self.header.bands
        if bands > (5 if self.header.interpretation == "cmyk" else 4):
            raise UnsupportedPixels(f"{self.name!r} has {bands} channels: only colours and transparency are read.")

    def _broken(self) -> BrokenImage | MissingDecoder:
        # libvips keeps one error text for all threads, so its words may be another job's: they stay in the traceback.
        if self.format == "heic":
            return MissingDecoder(
                f"{self.name!r} is a HEIC image, for which libvips has no HEVC decoder here, or a damaged one. Convert "
                "it to JPEG, or run this service with a libvips whose libheif has libde265."
            )
        if self._compression is not None:
            return MissingDecoder(
                f"{self.name!r} is a TIFF with a compression ({self._compression}) that libvips cannot decode "
                "here, or a damaged one. Write it with LZW or deflate."
            )
        if self.format == "avif" and self._original[8:12] == b"avis":
            return MissingDecoder(
                f"{self.name!r} is an animated AVIF, of which libvips cannot read a picture here, or a damaged one. "
                "Convert its first frame to another format."
            )
        remedy = "" if self._accept_damage else " With damaged='accept' the job takes what can be decoded."
        return BrokenImage(f"{self.name!r} is truncated or damaged: it cannot be decoded.{remedy}")


def _decodes(data: bytes, *, shrink: int = 1) -> bool:
    """Whether all of a JPEG can be decoded."""
    try:
        pyvips.Image.jpegload_buffer(data, access="sequential", fail_on="warning", shrink=shrink).avg()
    except pyvips.Error:
        return False
    return True


def _with_full_range(image: pyvips.Image) -> pyvips.Image:
    """Stretch the brightness from that of films, 16 to 235 of 255, to all values."""
    most, unit = (65535, 256) if image.format == "ushort" else (255, 1)
    factor = most / (219 * unit)
    colours = image.bands - image.hasalpha()
    factors, added = [factor] * colours, [-16 * unit * factor] * colours
    if image.hasalpha():
        factors, added = [*factors, 1.0], [*added, 0.0]
    return image.linear(factors, added).rint().cast(image.format)


def _exif(image: pyvips.Image, name: str) -> str:
    return str(image.get(name)) if image.get_typeof(name) else ""


class _Form(NamedTuple):
    """How the pixels of one of Pillow's modes are read."""

    mode: str
    bands: int
    bits: int
    palette: bool


def _form(mode: str) -> _Form:
    read_as = "L" if mode == "1" else mode if mode in ("L", "RGB", "RGBA") else "RGB"
    return _Form(read_as, len(Image.new(read_as, (1, 1)).getbands()), 1 if mode == "1" else 8, mode == "P")


def _from_pillow(image: Image.Image) -> pyvips.Image:
    form = _form(image.mode)
    pixels = image.convert(form.mode).tobytes()
    return _named(
        pyvips.Image.new_from_memory(pixels, image.width, image.height, form.bands, "uchar"), form
    ).copy_memory()


def _black(image: Image.Image, *, odd: bool) -> bytes:
    """As much of the first colour as a whole bitmap takes, as its file holds it."""
    if image.info.get("compression") not in _RUN_LENGTHS:
        return bytes(image.width * image.height * 4)
    runs = -(-image.width // 255)
    return bytes(odd) + (b"\xff\0" * runs + b"\0\0") * image.height  # zeros alone would be empty lines without an end


def _named(image: pyvips.Image, form: _Form) -> pyvips.Image:
    image = image.copy(interpretation="b-w" if form.bands == 1 else "srgb")
    image.set_type(pyvips.GValue.gint_type, "bits-per-sample", form.bits)
    if form.palette:
        image.set_type(pyvips.GValue.gint_type, "palette", 1)
    return image
