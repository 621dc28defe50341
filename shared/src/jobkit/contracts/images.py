"""What the images service is asked to do, and what it answers."""

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from jobkit.contracts.job import Job

#: What a source may be. HEIC needs a libvips with an HEVC decoder, which the packaged one does not have.
SourceFormat = Literal["jpeg", "png", "webp", "gif", "tiff", "avif", "heic", "bmp"]

#: What can be written.
OutputFormat = Literal["jpeg", "png", "webp", "avif", "tiff", "gif"]

#: Formats that can hold an animation.
AnimatedFormat = Literal["gif", "webp"]

#: What ``format="auto"`` may choose from.
AutoFormat = Literal["avif", "webp", "jpeg", "png"]

#: Where a crop is taken from; ``smart`` looks for the part that draws the eye.
Gravity = Literal[
    "centre", "north", "north-east", "east", "south-east", "south", "south-west", "west", "north-west", "smart"
]

#: One of the nine places of an image.
Place = Literal["centre", "north", "north-east", "east", "south-east", "south", "south-west", "west", "north-west"]

#: Pixels along one edge; no JPEG can have more.
Edge = Annotated[int, Field(ge=1, le=65_500)]

#: Pixels from the left or the upper edge.
Offset = Annotated[int, Field(ge=0, le=65_500)]

#: Red, green and blue in hexadecimal digits, like ``#ff8800``.
Colour = Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")]

#: The longest key that S3 takes, in bytes of UTF-8 (Amazon S3 User Guide, "Naming Amazon S3 objects").
MAX_KEY_BYTES = 1024

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def _relative_key(key: str) -> str:
    if any(part in ("", ".", "..") for part in key.split("/")):
        raise ValueError(
            "a key is relative to the storage, like 'photos/cat.jpg': no '/' at an end, no '//', '.' or '..'"
        )
    if "\\" in key or _CONTROL.search(key):
        raise ValueError("a key holds no backslash and no control character")
    if len(key.encode(errors="surrogatepass")) > MAX_KEY_BYTES:
        raise ValueError(f"a key has at most {MAX_KEY_BYTES} bytes")
    return key


#: Where an object lies in the storage.
Key = Annotated[str, AfterValidator(_relative_key)]


class _Operation(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Resize(_Operation):
    """Scale the image. With one edge given, the other follows from the aspect ratio.

    With both, ``fit`` decides: ``inside`` keeps the aspect ratio within the box. ``cover`` keeps it, fills the box and
    cuts off what stands out on both sides. ``stretch`` fills the box and gives the aspect ratio up.

    The image is made larger only with ``enlarge``. Without it, a box that the image does not fill is made smaller, in
    the same aspect ratio, until it does.
    """

    kind: Literal["resize"] = "resize"
    width: Edge | None = None
    height: Edge | None = None
    fit: Literal["inside", "cover", "stretch"] = "inside"
    enlarge: bool = False

    @model_validator(mode="after")
    def _has_an_edge(self) -> Self:
        if self.width is None and self.height is None:
            raise ValueError("a resize needs a width, a height or both")
        if self.fit != "inside" and (self.width is None or self.height is None):
            raise ValueError(f"fit={self.fit!r} needs both a width and a height")
        return self


class Crop(_Operation):
    """Cut out ``width`` x ``height`` pixels: at ``left`` and ``top``, or at a ``gravity``, by default in the centre."""

    kind: Literal["crop"] = "crop"
    width: Edge
    height: Edge
    left: Offset | None = None
    top: Offset | None = None
    gravity: Gravity | None = None

    @model_validator(mode="after")
    def _has_one_place(self) -> Self:
        if (self.left is None) != (self.top is None):
            raise ValueError("a crop needs left and top together")
        if self.left is not None and self.gravity is not None:
            raise ValueError("a crop is placed by left and top or by gravity, not by both")
        return self


class Rotate(_Operation):
    """Turn the image clockwise by ``angle`` degrees; a negative angle turns it counter-clockwise.

    Multiples of 90 move pixels and change none. After any other angle the image is larger, and its corners show
    ``background``. Without one they are transparent; the background of ``Convert`` then shows in a JPEG.
    """

    kind: Literal["rotate"] = "rotate"
    angle: Annotated[float, Field(gt=-360, lt=360)]
    background: Colour | None = None


class Flip(_Operation):
    """Mirror the image: ``horizontal`` swaps left and right, ``vertical`` swaps top and bottom."""

    kind: Literal["flip"] = "flip"
    direction: Literal["horizontal", "vertical"]


class Watermark(_Operation):
    """Lay another image of the storage over this one.

    It keeps its own transparency, times ``opacity``. It lies at ``gravity``, ``margin`` pixels away from the edges.
    ``scale`` sets its width as a share of the image's width. Without ``scale`` it keeps its own size. It is made
    smaller where it would not fit.
    """

    kind: Literal["watermark"] = "watermark"
    key: Key
    gravity: Place = "south-east"
    opacity: Annotated[float, Field(gt=0, le=1)] = 1.0
    scale: Annotated[float, Field(gt=0, le=1)] | None = None
    margin: Offset = 0


class _Region(_Operation):
    left: Offset | None = None
    top: Offset | None = None
    width: Edge | None = None
    height: Edge | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        given = [value is not None for value in (self.left, self.top, self.width, self.height)]
        if any(given) and not all(given):
            raise ValueError("a region needs left, top, width and height together; without any it is the whole image")
        return self


class Blur(_Region):
    """Blur the image, or the region at ``left`` and ``top``; ``sigma`` is that of a Gaussian blur, in pixels.

    What must not be recognised, such as a number plate, is safer under ``Pixelate`` with large blocks.
    """

    kind: Literal["blur"] = "blur"
    sigma: Annotated[float, Field(ge=0.3, le=200)] = 10.0


class Pixelate(_Region):
    """Replace the image, or the region at ``left`` and ``top``, by blocks of one colour, ``size`` pixels wide."""

    kind: Literal["pixelate"] = "pixelate"
    size: Annotated[int, Field(ge=2, le=1000)] = 16


class Compress(_Operation):
    """Set the quality of what is written from here on.

    JPEG, WebP and AVIF each have their own scale; with ``format="auto"`` it is that of JPEG. A PNG below 100 is written
    with at most 256 colours. A TIFF is always written without loss and a GIF with at most 256 colours, so that a
    quality does not change them.
    """

    kind: Literal["compress"] = "compress"
    quality: Annotated[int, Field(ge=1, le=100)]


class Convert(_Operation):
    """Set the format of what is written from here on.

    Without it the source's format stays. A GIF without animation and a BMP become a PNG, a HEIC becomes a JPEG.

    ``auto`` takes the smallest of the ``allowed`` formats, each written at a quality that looks like the JPEG's. JPEG
    does not take part for an image with transparency. Of an animation, WebP alone takes part where it is allowed;
    the others write its first frame.

    JPEG knows no transparency: there ``background`` shows through. Of an animation GIF and WebP keep all frames, the
    other formats the first.
    """

    kind: Literal["convert"] = "convert"
    format: OutputFormat | Literal["auto"]
    background: Colour = "#ffffff"
    allowed: Annotated[tuple[AutoFormat, ...], Field(min_length=1)] = ("avif", "webp", "jpeg", "png")


class Thumbnail(_Operation):
    """Write a further, smaller copy of the image as it is at this point; the image itself goes on unchanged.

    ``size`` is the longer edge in pixels. A smaller image is not enlarged.
    """

    kind: Literal["thumbnail"] = "thumbnail"
    size: Edge


Operation = Annotated[
    Resize | Crop | Rotate | Flip | Watermark | Blur | Pixelate | Compress | Convert | Thumbnail,
    Field(discriminator="kind"),
]


class ProcessImage(Job, queue="images", lanes=("high", "normal", "low")):
    """Apply operations to an image, in the order given, and write what comes out beside it in the storage.

    The source is turned upright first, as its EXIF orientation says; widths, heights and places refer to the upright
    image. What is written has 8 bits per channel or fewer. It is sRGB, or grey if the source is, and has no metadata
    (no EXIF, no place, no colour profile) unless ``keep_profile`` or ``keep_metadata`` say otherwise.
    Upload the source before the job is sent: a source that is not there is a permanent error.

    Attributes:
        source: Where the source lies in the storage.
        operations: What is done to it, in this order.
        damaged: ``refuse`` a source of which a part cannot be decoded, or ``accept`` what can be. A missing end marker
            alone is damage, too. The result says whether there was any.
        page: Which page of a TIFF is meant, from 1. Without it the first full picture is taken: not a page that the
            file marks as a preview or a mask, nor a first page that is a smaller copy of another.
        animation: ``keep`` all frames of a GIF or WebP as far as the output's format can, or take the ``first``.
        keep_profile: Write the source's colours and colour profile, in place of sRGB. CMYK still becomes sRGB.
        keep_metadata: Write the source's EXIF, XMP and IPTC data, which may tell the place and the owner.
    """

    source: Key
    operations: Annotated[tuple[Operation, ...], Field(min_length=1, max_length=20)]
    damaged: Literal["refuse", "accept"] = "refuse"
    page: Annotated[int, Field(ge=1, le=100_000)] | None = None
    animation: Literal["keep", "first"] = "keep"
    keep_profile: bool = False
    keep_metadata: bool = False


class ImageFile(BaseModel):
    """One image in the storage; width and height in pixels, upright; of an animation those of one frame."""

    model_config = ConfigDict(frozen=True)

    key: str
    format: SourceFormat | OutputFormat
    width: int
    height: int
    bytes: int


class SourceFile(ImageFile):
    """The image that a job has read.

    Attributes:
        frames: Of an animation; 1 of any other image.
        pages: Of a TIFF, previews and masks included; 1 of any other image.
        page: The page that was taken, from 1.
        damaged: Whether a part could not be decoded, or the end marker is missing (see ``ProcessImage.damaged``).
    """

    frames: int = 1
    pages: int = 1
    page: int = 1
    damaged: bool = False


class OutputFile(ImageFile):
    """One image that a job has written, under a key derived from its content.

    Two jobs that write the same bytes name the same object. Before you delete one, make sure that no other result
    names it.
    """

    kind: Literal["image", "thumbnail"]
    frames: int = 1


class ProcessedImage(BaseModel):
    """The result of ``ProcessImage``: the image first, then the thumbnails in the order of their operations.

    Attributes:
        source: What was read.
        outputs: What was written.
        dominant_colour: The colour that most of the image has, like ``#3a6ea5``, to be shown while it loads. None if
            the image is wholly transparent.
    """

    model_config = ConfigDict(frozen=True)

    source: SourceFile
    outputs: tuple[OutputFile, ...]
    dominant_colour: str | None = None
