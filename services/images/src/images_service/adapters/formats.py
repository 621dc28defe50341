"""Image formats: how each is recognised, and how each is written."""

from dataclasses import dataclass
from typing import assert_never

from images_service.errors import ImpossibleOperation, UnknownFormat
from jobkit.contracts.images import OutputFormat, SourceFormat

#: How files begin. A format that is missing here never reaches a decoder, whatever the file's name says.
SIGNATURES: tuple[tuple[bytes, SourceFormat], ...] = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"II*\x00", "tiff"),
    (b"MM\x00*", "tiff"),
    (b"II+\x00", "tiff"),  # BigTIFF
    (b"MM\x00+", "tiff"),
)

SUFFIXES: dict[OutputFormat, str] = {"jpeg": ".jpg", "png": ".png", "webp": ".webp", "avif": ".avif", "tiff": ".tiff"}

#: Pixels along the longest edge that an encoder takes: libjpeg's JPEG_MAX_DIMENSION, WebP's 14 bits, libvips for AVIF.
MAX_EDGE: dict[OutputFormat, int] = {"jpeg": 65_500, "webp": 16_383, "avif": 16_384}


def recognise(data: bytes, name: str) -> SourceFormat:
    """The format of a file, by its first bytes.

    Raises:
        UnknownFormat: the file, called ``name``, is none of those that are read here.
    """
    for signature, found in SIGNATURES:
        if data.startswith(signature):
            return found
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if not data:
        raise UnknownFormat(f"{name!r} is empty.")
    raise UnknownFormat(f"{name!r} is no JPEG, PNG, WebP, GIF or TIFF: it begins with {data[:8].hex(' ')}.")


@dataclass(frozen=True)
class Encoding:
    """How an image is written.

    Attributes:
        format: The file format.
        quality: 1 to 100 on the encoder's own scale; None takes the default: 80, for AVIF 55, which looks alike.
        background: Red, green and blue that replace transparency where the format has none.
    """

    format: OutputFormat
    quality: int | None = None
    background: tuple[int, int, int] = (255, 255, 255)

    def check_edges(self, width: int, height: int) -> None:
        """Raise ``ImpossibleOperation`` if the format cannot hold an image of that size."""
        longest = MAX_EDGE.get(self.format)
        if longest is not None and max(width, height) > longest:
            raise ImpossibleOperation(
                f"An image of {width} x {height} pixels is too large for {self.format}, which ends at {longest}: "
                "resize it first."
            )

    def options(self) -> dict[str, object]:
        """The options of libvips' encoder (libvips documentation, ``vips_jpegsave`` and its siblings)."""
        match self.format:
            case "jpeg":
                return {"Q": self.quality or 80, "optimize_coding": True}
            case "webp":
                return {"Q": self.quality or 80}
            case "avif":
                # Effort 2 of 9: a seventh of the default's time, for files that are some 4 % larger.
                return {"Q": self.quality or 55, "effort": 2}
            case "png":
                if self.quality is None or self.quality == 100:
                    return {"compression": 9 if self.quality else 6}
                # Effort 1 of 10: a sixth of the default's time, for files that are some 10 % larger.
                return {"compression": 9, "palette": True, "Q": self.quality, "effort": 1}
            case "tiff":
                return {"compression": "deflate", "predictor": "horizontal"}
            case _:
                assert_never(self.format)
