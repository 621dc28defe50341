"""Image formats: how each is recognised, and how each is written."""

import bisect
from dataclasses import dataclass
from typing import Final, Literal, assert_never

from images_service.errors import ImpossibleOperation, UnknownFormat
from jobkit.contracts.images import AnimatedFormat, OutputFormat, SourceFormat

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

#: Brands of an ISO media file (ISO/IEC 14496-12), in the order in which they decide. "mif1" says neither.
BRANDS: tuple[tuple[frozenset[bytes], SourceFormat], ...] = (
    (frozenset({b"avif", b"avis"}), "avif"),
    (frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}), "heic"),
)

#: Formats that are recognised so that the error can name them.
_NAMED: Final = (
    (b"FUJIFILMCCD-RAW", "a raw file of a Fujifilm camera"),
    (b"IIRO", "a raw file of an Olympus camera"),
    (b"IIRS", "a raw file of an Olympus camera"),
    (b"IIU\x00", "a raw file of a Panasonic camera"),
    (b"8BPS", "a Photoshop document"),
    (b"\xff\x0a", "a JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "a JPEG XL"),
    (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000"),
    (b"\x00\x00\x01\x00", "an icon"),
    (b"%PDF", "a PDF"),
    (b"<svg", "an SVG"),
)

#: The same for ISO media files, by their major brand.
_NAMED_BRANDS: Final = {
    b"crx ": "a raw file of a Canon camera",
    b"isom": "a film",
    b"mp41": "a film",
    b"mp42": "a film",
    b"qt  ": "a film",
}

SUFFIXES: dict[OutputFormat, str] = {
    "jpeg": ".jpg",
    "png": ".png",
    "webp": ".webp",
    "avif": ".avif",
    "tiff": ".tiff",
    "gif": ".gif",
}

#: How the world names what has such a suffix (IANA's registry of media types).
MEDIA_TYPES: dict[str, str] = {suffix: f"image/{form}" for form, suffix in SUFFIXES.items()}

#: Pixels along the longest edge that an encoder takes: libjpeg's JPEG_MAX_DIMENSION, WebP's 14 bits, libvips for AVIF,
#: the 16 bits of GIF.
MAX_EDGE: dict[OutputFormat, int] = {"jpeg": 65_500, "webp": 16_383, "avif": 16_384, "gif": 65_535}

#: Formats that hold an animation.
ANIMATED: frozenset[OutputFormat | AnimatedFormat] = frozenset({"gif", "webp"})

#: A quality on JPEG's scale, and those of WebP and AVIF that differ as much from the original. Measured as the mean
#: squared error of the brightness, over photographs, with the options that are used here.
_ALIKE: Final[dict[str, tuple[tuple[int, int], ...]]] = {
    "webp": ((1, 1), (20, 10), (40, 25), (60, 37), (70, 46), (80, 68), (90, 85), (95, 93), (100, 100)),
    "avif": ((1, 10), (20, 33), (40, 43), (60, 50), (70, 55), (80, 62), (90, 76), (95, 88), (100, 100)),
}

DEFAULT_QUALITY: Final = 80  #: Of a JPEG.


def recognise(data: bytes, name: str) -> SourceFormat:
    """Return the format of a file, by its first bytes.

    Raises:
        UnknownFormat: the file, called ``name``, is none of those that are read here.
    """
    for signature, found in SIGNATURES:
        if data.startswith(signature):
            return found
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[4:8] == b"ftyp":
        length = int.from_bytes(data[:4])
        brands = {data[8:12], *(data[at : at + 4] for at in range(16, min(length, 256), 4))}
        for known, found in BRANDS:
            if brands & known:
                return found
    # The header of the bitmap follows that of the file; its first field is its own size (12 to 124).
    if data[:2] == b"BM" and 12 <= int.from_bytes(data[14:18], "little") <= 124:
        return "bmp"
    if not data:
        raise UnknownFormat(f"{name!r} is empty.")
    kind = next((kind for start, kind in _NAMED if data.startswith(start)), "")
    if data[4:8] == b"ftyp":
        kind = _NAMED_BRANDS.get(data[8:12], "")
    known_as = f" but {kind}" if kind else ""
    raise UnknownFormat(
        f"{name!r} is no JPEG, PNG, WebP, GIF, TIFF, AVIF, HEIC or BMP{known_as}: it begins with {data[:8].hex(' ')}."
    )


def quality_like_jpeg(form: OutputFormat, quality: int) -> int:
    """Return the quality of ``form`` that looks like a JPEG of ``quality``; 100 for one without loss."""
    if form == "jpeg":
        return quality
    points = _ALIKE.get(form)
    if points is None:
        return 100
    after = min(max(bisect.bisect_left(points, (quality, 0)), 1), len(points) - 1)
    (x0, y0), (x1, y1) = points[after - 1], points[after]
    return round(y0 + (quality - x0) * (y1 - y0) / (x1 - x0))


@dataclass(frozen=True)
class Encoding:
    """How an image is written.

    Attributes:
        format: The file format, or ``auto`` for the smallest of the allowed ones.
        quality: 1 to 100 on the encoder's own scale, for ``auto`` on JPEG's; None takes the default: 80, for AVIF 55,
            which looks alike.
        background: Red, green and blue that replace transparency where the format has none.
        allowed: What ``auto`` chooses from.
        keep_profile: Whether the colour profile is written.
        keep_metadata: Whether EXIF, XMP and IPTC data is written.
    """

    format: OutputFormat | Literal["auto"]
    quality: int | None = None
    background: tuple[int, int, int] = (255, 255, 255)
    allowed: tuple[OutputFormat, ...] = ()
    keep_profile: bool = False
    keep_metadata: bool = False

    @property
    def keep(self) -> int:
        """What libvips keeps of the metadata (its ``VipsForeignKeep``): EXIF 1, XMP 2, IPTC 4, the profile 8."""
        return (7 if self.keep_metadata else 0) | (8 if self.keep_profile else 0)

    @property
    def may_animate(self) -> bool:
        """Whether what is written may hold an animation."""
        return bool(ANIMATED & ({*self.allowed} if self.format == "auto" else {self.format}))

    def fits(self, width: int, height: int) -> bool:
        """Return whether the format can hold an image of that size."""
        return self.format == "auto" or max(width, height) <= MAX_EDGE.get(self.format, max(width, height))

    def check_edges(self, width: int, height: int) -> None:
        """Raise ``ImpossibleOperation`` if the format cannot hold an image of that size."""
        if self.format != "auto" and not self.fits(width, height):
            raise ImpossibleOperation(
                f"An image of {width} x {height} pixels is too large for {self.format}, which ends at "
                f"{MAX_EDGE[self.format]}: resize it first."
            )

    def options(self, *, depth: int = 8, palette: bool = False) -> dict[str, object]:
        """Return the options of libvips' encoder (libvips documentation, ``vips_jpegsave`` and its siblings).

        Args:
            depth: The bits per pixel that suffice without loss, for grey and for palettes.
            palette: Whether the source had a palette.
        """
        match self.format:
            case "jpeg":
                return {"Q": self.quality or DEFAULT_QUALITY, "optimize_coding": True}
            case "webp":
                return {"Q": self.quality or 80}
            case "avif":
                # Effort 2 of 9: a seventh of the default's time, for files that are some 4 % larger.
                return {"Q": self.quality or 55, "effort": 2}
            case "png":
                return self._png(depth, palette)
            case "tiff":
                if depth == 1:
                    return {"compression": "ccittfax4", "bitdepth": 1}
                if depth < 8:
                    return {"compression": "deflate", "predictor": "none", "bitdepth": depth}
                return {"compression": "deflate", "predictor": "horizontal"}
            case "gif":
                return {"effort": 3}
            case "auto":
                raise ValueError("auto is not written itself")
            case _:
                assert_never(self.format)

    def _png(self, depth: int, palette: bool) -> dict[str, object]:
        lossless = self.quality is None or self.quality == 100
        compression = 6 if self.quality is None else 9
        if palette:
            shades = {"palette": True, "bitdepth": depth, "compression": compression}
            return {**shades, "Q": 100, "dither": 0} if lossless else {**shades, "Q": self.quality, "effort": 1}
        if depth < 8:
            return {"bitdepth": depth, "compression": compression}
        if lossless:
            return {"compression": compression}
        # Effort 1 of 10: a sixth of the default's time, for files that are some 10 % larger.
        return {"compression": 9, "palette": True, "Q": self.quality, "effort": 1}
