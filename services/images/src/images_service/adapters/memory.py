"""Memory: what a job needs for its pixels is reserved before they are decoded, so that the jobs of a process fit."""

import ctypes
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from images_service.adapters.formats import Encoding
from images_service.adapters.geometry import scaling, size_after
from images_service.adapters.pictures import Picture, shrink_on_load
from images_service.errors import SourceTooLarge
from jobkit.contracts.images import Operation, OutputFormat, Resize, Rotate, Thumbnail, Watermark
from jobkit.errors import Snooze

#: Bytes that the decoders, and then the conversion to sRGB, take for a pixel of the source at most.
READING: Final = 14

#: Bytes for each pixel of a progressive JPEG, whose coefficients are kept in full at every size.
COEFFICIENTS: Final = 6

#: The same for AVIF, which is decoded into planes, and then into pixels: of 8 bits per channel, and of more. Measured
#: at 4 megapixels with transparency.
PLANES: Final = (6, 18)

#: Bytes for a pixel while an operation makes its result: of the one, and of the other.
CHANGING: Final = 8

#: Bytes for a pixel while it is written: opaque, and with transparency. Noise takes the most; measured at 9 megapixels.
WRITING: Final[dict[OutputFormat, tuple[int, int]]] = {
    "jpeg": (12, 12),
    "png": (12, 12),
    "tiff": (12, 12),
    "gif": (22, 22),
    "webp": (26, 46),
    "avif": (30, 48),
}

#: How often a file is held: as it was uploaded, mended, and shortened to look for damage.
COPIES: Final = 3

#: Bytes for tables and buffers of decoders and encoders, however small the image is.
FIXED: Final = 24 << 20

#: Seconds that a job waits for others to end before it goes back to the queue; well below its time limit.
LONGEST_WAIT: Final = 40

#: Seconds after which such a job comes back.
COMES_BACK: Final = 10


_MALLOC_TRIM: Final = getattr(ctypes.CDLL(None), "malloc_trim", None)


class Memory:
    """So many bytes, shared by the threads of a process in the order in which they ask."""

    def __init__(self, most: int | None = None) -> None:
        self._most = most
        self._taken = 0
        self._changed = threading.Condition()
        self._queue: deque[object] = deque()

    @contextmanager
    def reserved(self, wanted: int, name: str) -> Iterator[None]:
        """Hold ``wanted`` bytes for the picture ``name``.

        Raises:
            SourceTooLarge: there are not that many.
            Snooze: other jobs hold them for too long.
        """
        if self._most is None:
            yield
            return
        if wanted > self._most:
            raise SourceTooLarge(
                f"{name!r} takes up to {wanted >> 20} MiB of memory with these operations, and IMAGES_MEMORY_MB allows "
                f"{self._most >> 20}: resize it first, or choose another format than AVIF or WebP."
            )
        self._take(wanted, name)
        try:
            yield
        finally:
            _return_to_the_system()
            with self._changed:
                self._taken -= wanted
                self._changed.notify_all()

    def _take(self, wanted: int, name: str) -> None:
        most, ticket = self._most or 0, object()
        with self._changed:
            self._queue.append(ticket)
            try:
                for _ in range(LONGEST_WAIT):  # a second at a time, because no interrupt reaches a thread that waits
                    if self._changed.wait_for(
                        lambda: self._queue[0] is ticket and self._taken + wanted <= most, timeout=1
                    ):
                        self._taken += wanted
                        return
            finally:
                self._queue.remove(ticket)
                self._changed.notify_all()
        raise Snooze(COMES_BACK, f"{name!r} waits for memory: {wanted >> 20} MiB of {most >> 20}")


def _return_to_the_system() -> None:
    """Ask the C library for what is free in its heaps.

    glibc has a heap for each thread and keeps what is freed there: four threads that take turns would hold four times
    the memory of one. Other C libraries have no such call.
    """
    if _MALLOC_TRIM is not None:
        _MALLOC_TRIM(0)


@dataclass
class _Walk:
    width: int
    height: int
    frames: int
    transparent: bool

    @property
    def pixels(self) -> int:
        return self.width * self.height * self.frames


def needed(
    picture: Picture,
    file_size: int,
    operations: tuple[Operation, ...],
    encodings: list[Encoding],
    marks: Mapping[str, Picture] = MappingProxyType({}),
) -> int:
    """Return the most bytes that these operations take at a time.

    Args:
        picture: The source, not yet decoded.
        file_size: Its bytes, and those of the watermarks.
        operations: In their order.
        encodings: How the image would be written after each operation, beginning with that before the first.
        marks: The watermarks by their keys, not yet decoded.
    """
    at = _Walk(picture.width, picture.height, picture.frames, picture.transparent)
    first = operations[0]
    shrink = shrink_on_load(picture, scaling(first, at.width, at.height)) if isinstance(first, Resize) else 1
    reading = at.pixels // shrink**2 * READING
    peak = reading + _besides(picture) * at.pixels
    kept = 0  # beside the image, until the job ends
    for operation, encoding in zip(operations, encodings[1:], strict=True):
        before = at.pixels // shrink**2
        if isinstance(operation, Thumbnail):
            small = Resize(width=operation.size, height=operation.size)
            width, height = size_after(small, at.width, at.height)
            pixels = width * height * at.frames
            peak = max(peak, kept + before * 4 + _writing(encoding, pixels, at.transparent))
            kept += pixels * 4
        elif isinstance(operation, Watermark) and operation.key in marks:
            mark = marks[operation.key]
            pixels = mark.width * mark.height
            reading = pixels * (READING + _besides(mark))
            peak = max(peak, kept + before * 4 + reading)
            kept += pixels * 4
        at.width, at.height = size_after(operation, at.width, at.height)
        at.transparent = at.transparent or (isinstance(operation, Rotate) and operation.angle % 90 != 0)
        peak = max(peak, kept + (before + at.pixels) * CHANGING)
        shrink = 1
    peak = max(peak, kept + _writing(encodings[-1], at.pixels, at.transparent))
    return FIXED + COPIES * file_size + peak


def _besides(picture: Picture) -> int:
    """Bytes for each pixel of the source that its decoder takes besides ``READING``."""
    match picture.format:
        case "jpeg":
            return COEFFICIENTS
        case "avif":
            return PLANES[picture.source.header.format != "uchar"]
        case _:
            return 0


def _writing(encoding: Encoding, pixels: int, transparent: bool) -> int:
    forms = encoding.allowed if encoding.format == "auto" else (encoding.format,)
    return pixels * max(WRITING[form][transparent] for form in forms)
