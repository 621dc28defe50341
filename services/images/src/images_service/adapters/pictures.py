"""Pictures: decoded, changed and encoded by libvips."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, cast

import pyvips  # type: ignore[import-untyped]  # it ships stubs, but no py.typed marker

from images_service.adapters.formats import ANIMATED, Encoding, quality_like_jpeg
from images_service.adapters.geometry import Scaling, rotated, scaling
from images_service.adapters.sources import Source, confine_libvips
from images_service.errors import BrokenImage, ImpossibleOperation
from jobkit.contracts.images import (
    Blur,
    Crop,
    Flip,
    Gravity,
    OutputFormat,
    Pixelate,
    Resize,
    Rotate,
    SourceFormat,
    Watermark,
)

__all__ = ["Picture", "confine_libvips", "shrink_on_load"]

_GRAVITY: Final[dict[Gravity, tuple[float, float]]] = {
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

_RIGHT_ANGLES: Final = {90: "d90", 180: "d180", 270: "d270"}

#: Longest edge of the copy in which the dominant colour is counted.
_SAMPLE: Final = 64

#: Formats that hold greys as colours, so that a profile for greys does not fit.
_ONLY_COLOURED: Final[frozenset[OutputFormat]] = frozenset({"webp", "avif"})

_Change = Callable[[pyvips.Image], pyvips.Image]


@dataclass(frozen=True)
class Picture:
    """An upright picture with 8 bits per channel, grey or in colour. Changing it gives a new one.

    A fresh one is not decoded yet, so that a resize can decode at a fraction of the size (a JPEG at 1/2, 1/4 or 1/8).
    The frames of an animation lie below each other in ``_pixels``; each change is made to every frame.

    Attributes:
        name: What errors call it.
        format: Of the source.
        width: Of one frame, in pixels.
        height: Of one frame, in pixels.
        frames: 1, or more of an animation.
        transparent: Whether it has an alpha channel.
        depth: Bits per pixel that hold it without loss, below 8 only of greys (1, 2, 4) and of palettes.
        palette: Whether its colours are those of the source's palette.
        max_pixels: No result may have more, over all frames.
        source: Where it comes from.
    """

    name: str
    format: SourceFormat
    width: int
    height: int
    frames: int
    transparent: bool
    depth: int
    palette: bool
    max_pixels: int
    source: Source
    _keep_profile: bool
    _pixels: pyvips.Image | None

    @classmethod
    def open(
        cls,
        data: bytes,
        name: str,
        *,
        max_pixels: int,
        accept_damage: bool = False,
        page: int | None = None,
        all_frames: bool = False,
        keep_profile: bool = False,
    ) -> Picture:
        """Read the header alone. The options are those of ``Source``; see the contract for ``keep_profile``.

        Raises:
            UnknownFormat: the data is no image of the formats that are read here, or holds no picture.
            BrokenImage: its header is damaged.
            SourceTooLarge: it has more than ``max_pixels``.
            ImpossibleOperation: it has no such page.
        """
        source = Source(
            data, name, max_pixels=max_pixels, accept_damage=accept_damage, page=page, all_frames=all_frames
        )
        header = source.header
        width, height = header.width, header.height  # of the first frame
        if _orientation(header) >= 5:  # EXIF 2.3, tag 0x0112: 5 to 8 lie on their side
            width, height = height, width
        palette = bool(header.get_typeof("palette"))
        depth = int(header.get("bits-per-sample")) if header.get_typeof("bits-per-sample") else 8
        if depth not in (1, 2, 4) or not (palette or header.interpretation == "b-w"):
            depth = 8
        return cls(
            name=name,
            format=source.format,
            width=width,
            height=height,
            frames=source.frames_read,
            transparent=header.hasalpha(),
            depth=depth,
            palette=palette,
            max_pixels=max_pixels,
            source=source,
            _keep_profile=keep_profile,
            _pixels=None,
        )

    def resize(self, wanted: Resize) -> Picture:
        """Scale it; see the contract's ``Resize``.

        Raises:
            ImpossibleOperation: the result would have too many pixels.
        """
        plan = scaling(wanted, self.width, self.height)
        self._check_result(plan.width, plan.height)
        if plan == (self.width, self.height, self.width, self.height):
            return self
        pixels = self._decoded if self._pixels is not None else self._upright(shrink_on_load(self, plan))
        # What is decoded at a fraction of the size is cut at that fraction.
        share = pixels.width / self.width
        across = max(1, min(pixels.width, round(plan.across * share)))
        down = max(1, min(_height(pixels, self.frames), round(plan.down * share)))

        def change(frame: pyvips.Image) -> pyvips.Image:
            if (across, down) != (frame.width, frame.height):
                frame = frame.crop((frame.width - across) // 2, (frame.height - down) // 2, across, down)
            return frame.thumbnail_image(plan.width, height=plan.height, size="force", no_rotate=True)

        return self._with(change, pixels=pixels, depth=8, palette=False)

    def thumbnail(self, size: int) -> Picture:
        """Return a copy whose longer edge has ``size`` pixels, or fewer if the picture has fewer."""
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
        if wanted.gravity == "smart":
            # Of an animation, all frames are cut where the first one draws the eye.
            attention = _frame(self._decoded, 0, self.height).smartcrop(width, height, interesting="attention")
            left, top = -int(attention.xoffset), -int(attention.yoffset)
        elif left is None or top is None:
            left, top = self._place(wanted.gravity or "centre", width, height)
        cut = (left, top, width, height)
        return self._with(lambda frame: frame.crop(*cut))

    def rotate(self, wanted: Rotate) -> Picture:
        """Turn it; see the contract's ``Rotate``.

        Raises:
            ImpossibleOperation: the result would have too many pixels.
        """
        angle = wanted.angle % 360
        if angle == 0:
            return self
        self._check_result(*rotated(angle, self.width, self.height))
        if angle in _RIGHT_ANGLES:
            return self._with(lambda frame: frame.rot(_RIGHT_ANGLES[int(angle)]))

        def change(frame: pyvips.Image) -> pyvips.Image:
            if wanted.background is None:
                frame = frame if frame.hasalpha() else frame.addalpha()
                return _premultiplied(frame, lambda image: image.rotate(angle, background=[0.0] * image.bands))
            frame = _coloured(frame)
            paint = [*(float(value) for value in bytes.fromhex(wanted.background[1:])), 255.0][: frame.bands]
            return _premultiplied(frame, lambda image: image.rotate(angle, background=paint))

        return self._with(change, depth=8, palette=False)

    def flip(self, wanted: Flip) -> Picture:
        """Mirror it; see the contract's ``Flip``."""
        return self._with(lambda frame: frame.flip(wanted.direction))

    def watermark(self, wanted: Watermark, mark: Picture) -> Picture:
        """Lay ``mark`` over it; see the contract's ``Watermark``.

        Raises:
            BrokenImage: the mark is damaged.
            ImpossibleOperation: the margins leave no room.
        """
        room = self.width - 2 * wanted.margin, self.height - 2 * wanted.margin
        if min(room) < 1:
            raise ImpossibleOperation(
                f"A margin of {wanted.margin} pixels leaves no room in an image of {self.width} x {self.height}."
            )
        width = mark.width if wanted.scale is None else max(1, round(self.width * wanted.scale))
        factor = min(width / mark.width, room[0] / mark.width, room[1] / mark.height)
        size = max(1, round(mark.width * factor)), max(1, round(mark.height * factor))
        mark = mark.resize(Resize(width=size[0], height=size[1], fit="stretch", enlarge=True))
        left, top = self._place(wanted.gravity, *size, margin=wanted.margin)
        with _impossible("used as a watermark", wanted.key):
            over = _coloured(mark._decoded)
            over = over if over.hasalpha() else over.addalpha()
            over = (over * [1, 1, 1, wanted.opacity]).cast("uchar").copy_memory()

        def change(frame: pyvips.Image) -> pyvips.Image:
            frame = _coloured(frame)
            both = frame.composite2(over, "over", x=left, y=top)
            return both if frame.hasalpha() else both[:3]

        return self._with(change, depth=8, palette=False)

    def blur(self, wanted: Blur) -> Picture:
        """Blur it or a region of it; see the contract's ``Blur``.

        Raises:
            ImpossibleOperation: the region is not wholly inside.
        """
        return self._in_region(wanted, lambda part: _premultiplied(part, lambda image: image.gaussblur(wanted.sigma)))

    def pixelate(self, wanted: Pixelate) -> Picture:
        """Replace it or a region of it by blocks; see the contract's ``Pixelate``.

        Raises:
            ImpossibleOperation: the region is not wholly inside.
        """
        size = wanted.size

        def blocks(image: pyvips.Image) -> pyvips.Image:
            across, down = -(-image.width // size) * size, -(-image.height // size) * size
            whole = image.embed(0, 0, across, down, extend="copy")
            return whole.shrink(size, size).zoom(size, size).crop(0, 0, image.width, image.height)

        return self._in_region(wanted, lambda part: _premultiplied(part, blocks))

    def dominant_colour(self) -> str | None:
        """Return the colour that most of the (first) frame has, like ``#3a6ea5``; None if nothing is visible."""
        with _impossible("looked at", self.name):
            small = _frame(self._decoded, 0, self.height).thumbnail_image(_SAMPLE, height=_SAMPLE, size="down")
            small = _in_srgb(small)
            small = (small if small.hasalpha() else small.addalpha()).cast("uchar")
            values = bytes(small.write_to_memory())
        pixels = [values[at : at + 3] for at in range(0, len(values), 4) if values[at + 3] >= 128]
        if not pixels:
            return None
        # Colours that share the upper three bits of each channel count as one; their mean is the answer.
        cell = Counter((red >> 5, green >> 5, blue >> 5) for red, green, blue in pixels).most_common(1)[0][0]
        same = [pixel for pixel in pixels if tuple(value >> 5 for value in pixel) == cell]
        return "#" + bytes(round(sum(channel) / len(same)) for channel in zip(*same, strict=True)).hex()

    def encode(self, encoding: Encoding) -> tuple[bytes, OutputFormat]:
        """Return the whole file and its format.

        Raises:
            BrokenImage: the source turns out to be damaged.
            ImpossibleOperation: the format cannot hold an image of this size.
        """
        if encoding.format == "auto":
            return self._smallest(encoding)
        encoding.check_edges(self.width, self.height)
        pixels = self._decoded
        with _impossible(f"written as {encoding.format}", self.name):
            if encoding.format not in ANIMATED:
                pixels = _frame(pixels, 0, self.height)
            if encoding.format in _ONLY_COLOURED and pixels.get_typeof("icc-profile-data"):
                pixels = _coloured(pixels)
            if encoding.format == "jpeg" and pixels.hasalpha():
                if len(set(encoding.background)) > 1:
                    pixels = _coloured(pixels)
                pixels = pixels.flatten(background=_paint(pixels, encoding.background))
            return self._written(pixels, encoding), encoding.format

    def frames_in(self, form: OutputFormat, data: bytes) -> int:
        """Return how many frames the encoded file has: the encoders join frames that are equal."""
        if self.frames == 1 or form not in ANIMATED:
            return 1
        header = getattr(pyvips.Image, f"{form}load_buffer")(data, access="sequential")
        return int(header.get("n-pages")) if header.get_typeof("n-pages") else 1

    def _smallest(self, encoding: Encoding) -> tuple[bytes, OutputFormat]:
        forms = [form for form in encoding.allowed if form != "jpeg" or not self.transparent]
        if self.frames > 1:
            forms = [form for form in forms if form in ANIMATED] or forms
        quality = encoding.quality or 80
        choices = [replace(encoding, format=form, quality=quality_like_jpeg(form, quality)) for form in forms]
        fitting = [choice for choice in choices if choice.fits(self.width, self.height)]
        if not fitting:
            raise ImpossibleOperation(
                f"None of the allowed formats ({', '.join(encoding.allowed)}) can hold this image: "
                f"{self.width} x {self.height} pixels{', transparent' if self.transparent else ''}. Allow PNG, too."
            )
        return min((self.encode(choice) for choice in fitting), key=lambda written: len(written[0]))

    def _written(self, pixels: pyvips.Image, encoding: Encoding) -> bytes:
        suffix = f".{encoding.format}"

        def write(depth: int, *, palette: bool) -> bytes:
            options = encoding.options(depth=depth, palette=palette)
            return cast(bytes, pixels.write_to_buffer(suffix, keep=encoding.keep, **options))

        whole = write(8, palette=False) if self.depth == 8 else b""
        if encoding.format == "png" and self.palette and encoding.quality in (None, 100):
            # A quantiser finds all colours again if they are few enough, which is not promised: hence the comparison.
            small = write(self.depth, palette=True)
            whole = whole or write(8, palette=False)
            return small if len(small) < len(whole) and _same(small, pixels) else whole
        if self.depth < 8 and self._holds(pixels) and not self.palette:
            return write(self.depth, palette=False)
        return whole or write(8, palette=False)

    def _holds(self, pixels: pyvips.Image) -> bool:
        """Whether ``depth`` bits hold every value; a colour profile may have moved some."""
        step = 255 // (2**self.depth - 1)
        return pixels.bands == 1 and float((pixels % step).max()) == 0

    def _in_region(self, wanted: Blur | Pixelate, change: _Change) -> Picture:
        left, top, width, height = wanted.left, wanted.top, wanted.width, wanted.height
        if left is None or top is None or width is None or height is None:
            return self._with(change, depth=8, palette=False)
        if left + width > self.width or top + height > self.height:
            raise ImpossibleOperation(
                f"A region of {width} x {height} pixels at {left}, {top} is not inside the image of "
                f"{self.width} x {self.height}."
            )
        place = (left, top, width, height)
        return self._with(lambda frame: frame.insert(change(frame.crop(*place)), left, top), depth=8, palette=False)

    def _place(self, gravity: Gravity, width: int, height: int, *, margin: int = 0) -> tuple[int, int]:
        across, down = _GRAVITY[gravity]
        return (
            margin + int((self.width - 2 * margin - width) * across),
            margin + int((self.height - 2 * margin - height) * down),
        )

    def _check_result(self, width: int, height: int) -> None:
        if width * height * self.frames > self.max_pixels:
            frames = f"{self.frames} frames of " if self.frames > 1 else ""
            raise ImpossibleOperation(
                f"The result would have {frames}{width} x {height} pixels, and IMAGES_MAX_PIXELS allows "
                f"{self.max_pixels}."
            )

    @cached_property
    def _decoded(self) -> pyvips.Image:
        return self._pixels if self._pixels is not None else self._upright(1)

    def _upright(self, shrink: int) -> pyvips.Image:
        pixels = self.source.decoded(shrink)
        with _broken(self.name):
            return _finished(pixels, keep_profile=self._keep_profile)

    def _with(
        self,
        change: _Change,
        *,
        pixels: pyvips.Image | None = None,
        depth: int | None = None,
        palette: bool | None = None,
    ) -> Picture:
        # Each change is carried out before the next begins: so progress is true, and damage shows where it is.
        before = self._decoded if pixels is None else pixels
        with _impossible("changed so", self.name):
            after = _each_frame(before, self.frames, change)
        return replace(
            self,
            width=after.width,
            height=_height(after, self.frames),
            transparent=after.hasalpha(),
            depth=self.depth if depth is None else depth,
            palette=self.palette if palette is None else palette,
            _pixels=after,
        )


def shrink_on_load(picture: Picture, plan: Scaling) -> int:
    """Return the fraction of the edges that suffices to decode: 1, 2, 4 or 8.

    At least twice the size of the result is decoded, because the decoder's own reduction is coarse.
    """
    if not picture.source.can_shrink or picture.frames > 1 or picture._pixels is not None:
        return 1
    factor = min(plan.across / plan.width, plan.down / plan.height)
    return next((shrink for shrink in (8, 4, 2) if factor >= 2 * shrink), 1)


def _orientation(image: pyvips.Image) -> int:
    if not image.get_typeof("orientation"):
        return 1
    found = int(image.get("orientation"))
    return found if 1 <= found <= 8 else 1


def _finished(image: pyvips.Image, *, keep_profile: bool) -> pyvips.Image:
    """The image in memory, upright, with 8 bits per channel: grey or sRGB, or in the colours of its own profile."""
    grey = image.interpretation in ("b-w", "grey16")
    if image.get_typeof("icc-profile-data") and not (keep_profile and image.interpretation != "cmyk"):
        image = _transformed(image)
        if image.get_typeof("exif-ifd2-ColorSpace"):
            image.set_type(pyvips.GValue.gstr_type, "exif-ifd2-ColorSpace", "1")  # sRGB; kept metadata has to be true
        if image.get_typeof("exif-ifd4-InteroperabilityIndex"):
            image.remove("exif-ifd4-InteroperabilityIndex")
    wanted = "b-w" if grey else "srgb"
    if image.interpretation != wanted:
        image = image.colourspace(wanted)
    image = image.cast("uchar")
    if image.get_typeof("jpeg-thumbnail-data"):
        image.remove("jpeg-thumbnail-data")
    image = image.copy_memory()
    return image.autorot().copy_memory() if _orientation(image) > 1 else image


def _transformed(image: pyvips.Image) -> pyvips.Image:
    """The image in sRGB by its profile, without it; with its own colours if the profile can be parsed, but not used."""
    try:
        # In place of a broken profile libvips takes one of its own.
        image = image.icc_transform("srgb", embedded=True, depth=8)
    except pyvips.Error:
        image = image.copy()
    image.remove("icc-profile-data")  # or the next operation would transform once more
    return image


def _each_frame(pixels: pyvips.Image, frames: int, change: _Change) -> pyvips.Image:
    if frames == 1:
        return change(pixels).copy_memory()
    height = pixels.height // frames
    changed = [change(_frame(pixels, number, height)).copy_memory() for number in range(frames)]
    joined = pyvips.Image.arrayjoin(changed, across=1).copy()
    joined.set_type(pyvips.GValue.gint_type, "page-height", changed[0].height)
    return joined.copy_memory()


def _frame(pixels: pyvips.Image, number: int, height: int) -> pyvips.Image:
    if pixels.height == height:
        return pixels
    frame = pixels.crop(0, number * height, pixels.width, height).copy()
    frame.set_type(pyvips.GValue.gint_type, "page-height", height)
    return frame


def _height(pixels: pyvips.Image, frames: int) -> int:
    return int(pixels.height) // frames


def _premultiplied(image: pyvips.Image, change: _Change) -> pyvips.Image:
    """Change it without letting the colour of what is transparent show."""
    if not image.hasalpha():
        return change(image).cast("uchar")
    interpretation = image.interpretation
    changed = change(image.premultiply()).unpremultiply().cast("uchar")
    return changed.copy(interpretation=interpretation)


def _coloured(image: pyvips.Image) -> pyvips.Image:
    """The image with three colours; greys with a profile of their own, which fits no colours, become sRGB."""
    return image if image.bands >= 3 else _in_srgb(image)


def _in_srgb(image: pyvips.Image) -> pyvips.Image:
    if image.get_typeof("icc-profile-data"):
        image = _transformed(image)
    return image.colourspace("srgb") if image.bands < 3 or image.interpretation != "srgb" else image


def _paint(pixels: pyvips.Image, background: tuple[int, int, int]) -> list[float]:
    """The background as the image's own channels hold it."""
    if pixels.bands > 2:
        return [float(value) for value in background]
    red, green, blue = background
    return [0.2126 * red + 0.7152 * green + 0.0722 * blue]


def _same(data: bytes, pixels: pyvips.Image) -> bool:
    written = pyvips.Image.pngload_buffer(data, access="sequential")
    if (written.width, written.height) != (pixels.width, pixels.height):
        return False
    written = written.colourspace(pixels.interpretation)
    if written.bands < pixels.bands and not written.hasalpha():
        written = written.addalpha()
    return written.bands == pixels.bands and float((written - pixels).abs().max()) == 0


@contextmanager
def _impossible(what: str, name: str) -> Iterator[None]:
    """For what is in memory: decoded, and so not damaged."""
    try:
        yield
    except pyvips.Error as error:
        raise ImpossibleOperation(f"{name!r} cannot be {what}: libvips refuses.") from error


@contextmanager
def _broken(name: str) -> Iterator[None]:
    try:
        yield
    except pyvips.Error as error:
        # libvips keeps one error text for all threads, so its words may be another job's: they stay in the traceback.
        raise BrokenImage(f"{name!r} is truncated or damaged: it cannot be decoded.") from error
