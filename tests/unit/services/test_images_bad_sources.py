"""Sources that no retry will mend, and settings that keep them from doing harm."""

import functools
import io
import random
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest
import pyvips  # type: ignore[import-untyped]  # it ships stubs, but no py.typed marker
from PIL import Image

from images_service.adapters import open_resources
from images_service.errors import BrokenImage, MissingSource, SourceTooLarge, UnknownFormat
from images_service.handlers import process_image
from images_service.settings import ImagesSettings
from jobkit.contracts.images import Compress, Crop, Operation, ProcessedImage, ProcessImage, Resize, Thumbnail
from jobkit.errors import PermanentError

FORMATS = ["jpeg", "png", "webp", "gif", "tiff", "avif", "bmp"]


class Process(Protocol):
    def __call__(self, source: bytes | None, operation: Operation = ...) -> ProcessedImage: ...


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    """Process these bytes with one operation."""
    with open_resources(ImagesSettings(storage_url=str(tmp_path), max_bytes=1_000_000)) as resources:

        def run(source: bytes | None, operation: Operation = Resize(width=10)) -> ProcessedImage:  # noqa: B008  a frozen contract
            if source is not None:
                (tmp_path / "source.jpg").write_bytes(source)
            job = ProcessImage(source="source.jpg", operations=[operation])
            storage, most = resources.storage, resources.max_pixels
            return process_image(job, storage, max_pixels=most, progress=lambda *_, **__: None)

        yield run
        assert not (tmp_path / "processed").exists(), "a bad source has left an output"


@functools.cache
def picture(kind: str, size: tuple[int, int] = (80, 60)) -> bytes:
    buffer = io.BytesIO()
    noise = Image.frombytes("RGB", size, random.Random(1).randbytes(size[0] * size[1] * 3))
    noise.save(buffer, kind)
    return buffer.getvalue()


def png(width: int, height: int, pixels: bytes = b"") -> bytes:
    """A PNG that claims to have that size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def test_a_missing_source_is_permanent_and_says_what_to_do(process: Process) -> None:
    with pytest.raises(MissingSource, match=r"holds no 'source\.jpg': upload the source before") as caught:
        process(None)
    assert isinstance(caught.value, PermanentError)


def test_an_empty_source_is_permanent(process: Process) -> None:
    with pytest.raises(UnknownFormat, match="is empty"):
        process(b"")


@pytest.mark.parametrize(
    "source",
    [
        b"<svg xmlns='http://www.w3.org/2000/svg' width='10' height='10'/>",
        b"%PDF-1.7\n",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"BM" + bytes(60),
        bytes.fromhex("0000001866747970637278200000000063727820"),  # a raw file of a Canon camera
        b"P6 1 1 255\n\x00\x00\x00",
        b"push graphic-context\nviewbox 0 0 1 1\n",
        b"not an image",
        b"\xff",
    ],
)
def test_an_unknown_format_is_permanent_whatever_the_name_says(process: Process, source: bytes) -> None:
    with pytest.raises(UnknownFormat, match="is no JPEG, PNG, WebP, GIF, TIFF, AVIF, HEIC or BMP"):
        process(source)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (bytes.fromhex("0000001866747970637278200000000063727820"), "a raw file of a Canon camera"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "a film"),
        (b"8BPS\0\1", "a Photoshop document"),
        (b"FUJIFILMCCD-RAW 0201", "a raw file of a Fujifilm camera"),
    ],
)
def test_what_is_no_image_for_this_service_is_named(process: Process, source: bytes, name: str) -> None:
    with pytest.raises(UnknownFormat, match=f"but {name}: it begins with"):
        process(source)


def test_channels_beside_the_colours_are_refused(process: Process) -> None:
    source = pyvips.Image.black(20, 10, bands=6).copy(interpretation="srgb").tiffsave_buffer()
    with pytest.raises(UnknownFormat, match="has 6 channels"):
        process(source)


def test_decoders_that_are_not_needed_stay_blocked(process: Process) -> None:
    with pytest.raises(pyvips.Error):
        pyvips.Image.new_from_buffer(b"<svg xmlns='http://www.w3.org/2000/svg' width='10' height='10'/>", "")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    "operation",
    [
        Resize(width=10),
        Resize(width=400),
        Crop(width=20, height=5, gravity="north"),
        Compress(quality=50),
        Thumbnail(size=10),
    ],
    ids=["shrink", "enlarge", "crop", "compress", "thumbnail"],
)
@pytest.mark.parametrize("part", [0.2, 0.98])
def test_a_truncated_source_is_permanent(process: Process, kind: str, operation: Operation, part: float) -> None:
    whole = picture(kind)
    with pytest.raises(BrokenImage, match="truncated or damaged"):
        process(whole[: int(len(whole) * part)], operation)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_header_alone_is_permanent(process: Process, kind: str) -> None:
    with pytest.raises(BrokenImage, match="truncated or damaged"):
        process(picture(kind)[:16])


def test_a_damaged_png_is_permanent(process: Process) -> None:
    source = bytearray(picture("png"))
    source[len(source) // 2] ^= 0xFF
    with pytest.raises(BrokenImage):
        process(bytes(source))


def test_a_decompression_bomb_is_refused_by_its_header(process: Process) -> None:
    bomb = png(50_000, 50_000, bytes(100_000))
    assert len(bomb) < 1_000
    started = time.process_time()
    with pytest.raises(SourceTooLarge, match="50000 x 50000 pixels, and IMAGES_MAX_PIXELS allows 64000000"):
        process(bomb)
    assert time.process_time() - started < 0.2


def test_too_many_bytes_are_refused_before_they_are_read(process: Process) -> None:
    with pytest.raises(SourceTooLarge, match="1000001 bytes, and IMAGES_MAX_BYTES allows 1000000"):
        process(bytes(1_000_001))
