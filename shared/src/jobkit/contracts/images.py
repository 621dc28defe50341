"""What the images service is asked to do, and what it answers."""

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from jobkit.contracts.job import Job

#: What a source may be: of a GIF or an animated WebP the first frame is taken, of a TIFF the first page.
SourceFormat = Literal["jpeg", "png", "webp", "gif", "tiff"]

#: What can be written.
OutputFormat = Literal["jpeg", "png", "webp", "avif", "tiff"]

#: Where a crop is taken from; ``smart`` looks for the part that draws the eye.
Gravity = Literal[
    "centre", "north", "north-east", "east", "south-east", "south", "south-west", "west", "north-west", "smart"
]

#: Pixels along one edge; no JPEG can have more.
Edge = Annotated[int, Field(ge=1, le=65_500)]

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
    """Scale the image, up or down. With one edge given, the other follows from the aspect ratio.

    With both, ``fit`` decides: ``inside`` keeps the aspect ratio within the box, ``cover`` keeps it and cuts off what
    stands out on both sides, ``stretch`` gives it up.
    """

    kind: Literal["resize"] = "resize"
    width: Edge | None = None
    height: Edge | None = None
    fit: Literal["inside", "cover", "stretch"] = "inside"

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
    left: Annotated[int, Field(ge=0, le=65_500)] | None = None
    top: Annotated[int, Field(ge=0, le=65_500)] | None = None
    gravity: Gravity | None = None

    @model_validator(mode="after")
    def _has_one_place(self) -> Self:
        if (self.left is None) != (self.top is None):
            raise ValueError("a crop needs left and top together")
        if self.left is not None and self.gravity is not None:
            raise ValueError("a crop is placed by left and top or by gravity, not by both")
        return self


class Compress(_Operation):
    """Set the quality of what is written from here on.

    JPEG, WebP and AVIF each have their own scale. A PNG below 100 is written with at most 256 colours. A TIFF is always
    written without loss, so that a quality does not change it.
    """

    kind: Literal["compress"] = "compress"
    quality: Annotated[int, Field(ge=1, le=100)]


class Convert(_Operation):
    """Set the format of what is written from here on; without it, the source's format stays (PNG for a GIF).

    JPEG knows no transparency: there ``background`` shows through.
    """

    kind: Literal["convert"] = "convert"
    format: OutputFormat
    background: Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")] = "#ffffff"


class Thumbnail(_Operation):
    """Write a further, smaller copy of the image as it is at this point; the image itself goes on unchanged.

    ``size`` is the longer edge in pixels. A smaller image is not enlarged.
    """

    kind: Literal["thumbnail"] = "thumbnail"
    size: Edge


Operation = Annotated[Resize | Crop | Compress | Convert | Thumbnail, Field(discriminator="kind")]


class ProcessImage(Job, queue="images", lanes=("high", "normal", "low")):
    """Apply operations to an image, in the order given, and write what comes out beside it in the storage.

    The source is turned upright first, as its EXIF orientation says; widths, heights and places refer to the upright
    image. What is written is sRGB with 8 bits per channel and has no metadata (no EXIF, no place, no colour profile).
    Upload the source before the job is sent: a source that is not there is a permanent error.
    """

    source: Key
    operations: Annotated[tuple[Operation, ...], Field(min_length=1, max_length=20)]


class ImageFile(BaseModel):
    """One image in the storage; width and height in pixels, upright."""

    model_config = ConfigDict(frozen=True)

    key: str
    format: SourceFormat | OutputFormat
    width: int
    height: int
    bytes: int


class OutputFile(ImageFile):
    """One image that a job has written, under a key derived from its content."""

    kind: Literal["image", "thumbnail"]


class ProcessedImage(BaseModel):
    """The result of ``ProcessImage``: the image first, then the thumbnails in the order of their operations."""

    model_config = ConfigDict(frozen=True)

    source: ImageFile
    outputs: tuple[OutputFile, ...]
