"""Damage is refused, or accepted on request; what cameras write wrong in a header is no damage."""

import functools
import io
import os
import random
import re
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageStat

from images_service.adapters import open_resources
from images_service.errors import BrokenImage, UnsupportedPixels
from images_service.handlers import process_image
from images_service.settings import ImagesSettings
from jobkit.contracts.images import Convert, Operation, ProcessedImage, ProcessImage, Resize

PNG = Convert(format="png")
Run = Callable[..., tuple[ProcessedImage, Image.Image]]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with open_resources(ImagesSettings(storage_url=str(tmp_path))) as resources:

        def process(source: bytes, *operations: Operation, **fields: object) -> tuple[ProcessedImage, Image.Image]:
            (tmp_path / "source").write_bytes(source)
            job = ProcessImage.model_validate({"source": "source", "operations": operations or (PNG,), **fields})
            result = process_image(
                job, resources.storage, max_pixels=1_000_000, progress=lambda *_, **__: None, memory=resources.memory
            )
            image = Image.open(tmp_path / result.outputs[0].key)
            image.load()
            return result, image

        yield process


@functools.cache
def noise(kind: str = "jpeg", mode: str = "RGB", size: tuple[int, int] = (200, 150), **options: object) -> bytes:
    buffer = io.BytesIO()
    grain = Image.frombytes("RGB", (size[0] // 2, size[1] // 2), random.Random(1).randbytes(size[0] * size[1] * 3 // 4))
    grain.resize(size, Image.Resampling.BILINEAR).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


JPEGS: dict[str, dict[str, Any]] = {
    "baseline": {"quality": 90},
    "progressive": {"quality": 90, "progressive": True},
    "restart markers": {"quality": 90, "restart_marker_blocks": 4},
    "full colour": {"quality": 90, "subsampling": 0},
    "grey": {"quality": 90, "mode": "L"},
}
HOLES: dict[str, Callable[[bytes], bytes]] = {
    "first half and an end marker": lambda data: data[: len(data) // 2] + b"\xff\xd9",
    "a third is missing": lambda data: data[: len(data) // 3] + data[2 * len(data) // 3 :],
    "first half": lambda data: data[: len(data) // 2],
    "the last rows are missing": lambda data: data[:-400] + b"\xff\xd9",
    "the end marker is missing": lambda data: data[:-2],
}


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("hole", HOLES)
@pytest.mark.parametrize("operation", [PNG, Resize(width=20)], ids=lambda each: each.kind)
def test_a_jpeg_with_a_hole_is_refused_by_default(run: Run, kind: str, hole: str, operation: Operation) -> None:
    with pytest.raises(BrokenImage, match=r"truncated or damaged.* damaged='accept'"):
        run(HOLES[hole](noise(**JPEGS[kind])), operation)


#: With a third missing, a progressive one lacks the tables of later scans, without which libjpeg decodes nothing.
DECODABLE = [(kind, hole) for kind in JPEGS for hole in HOLES if (kind, hole) != ("progressive", "a third is missing")]


@pytest.mark.parametrize(("kind", "hole"), DECODABLE)
def test_what_can_be_decoded_is_accepted_on_request_and_the_result_says_so(run: Run, kind: str, hole: str) -> None:
    whole = noise(**JPEGS[kind])
    result, image = run(HOLES[hole](whole), damaged="accept")
    assert result.source.damaged
    if kind != "progressive":  # whose first scans cover the whole picture
        upper = (0, 0, 200, 24)
        other = Image.open(io.BytesIO(whole)).convert("RGB").crop(upper)
        assert ImageStat.Stat(ImageChops.difference(image.convert("RGB").crop(upper), other)).rms[0] < 3


@pytest.mark.parametrize("height", [8, 16, 24, 296, 300, 304])
@pytest.mark.parametrize("subsampling", [0, 2])
def test_a_hole_in_the_last_row_of_blocks_is_found_at_any_height(run: Run, height: int, subsampling: int) -> None:
    data = noise(size=(200, height), quality=90, subsampling=subsampling)
    assert not run(data)[0].source.damaged
    for operation in (PNG, Resize(width=20)):
        with pytest.raises(BrokenImage):
            run(data[:-200] + b"\xff\xd9", operation)


OVERWRITTEN: dict[str, Callable[[bytes, int], bytes]] = {
    "zeros": lambda data, at: data[:at] + bytes(2000) + data[at + 2000 :],
    "one value": lambda data, at: data[:at] + b"\xa5" * 2000 + data[at + 2000 :],
    "a part of it again": lambda data, at: data[:at] + data[at - 2000 :],
}


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("part", OVERWRITTEN)
@pytest.mark.parametrize("operation", [PNG, Resize(width=20)], ids=lambda each: each.kind)
def test_a_part_of_a_jpeg_that_was_overwritten_or_repeated_is_damage(
    run: Run, mode: str, part: str, operation: Operation
) -> None:
    whole = noise(mode=mode, quality=90, size=(400, 300))
    assert not run(whole, operation)[0].source.damaged
    changed = OVERWRITTEN[part](whole, len(whole) // 2)
    with pytest.raises(BrokenImage):
        run(changed, operation)
    assert run(changed, operation, damaged="accept")[0].source.damaged


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_progressive_jpeg_that_was_cut_between_two_scans_is_damage(run: Run, share: float) -> None:
    whole = noise(progressive=True, quality=90)
    assert not run(whole)[0].source.damaged
    scans = [match.start() for match in re.finditer(rb"\xff[\xc4\xda]", whole) if match.start() > _scan(whole)]
    cut = whole[: scans[int(len(scans) * share)]] + b"\xff\xd9"
    with pytest.raises(BrokenImage):
        run(cut, Resize(width=20))
    assert run(cut, damaged="accept")[0].source.damaged


def _animation(kind: str) -> bytes:
    frames = [Image.open(io.BytesIO(noise("png"))).rotate(angle) for angle in (0, 90, 180)]
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:], duration=50)
    return buffer.getvalue()


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_an_animation_that_was_cut_off_is_damage_and_not_a_shorter_one(run: Run, share: float) -> None:
    whole = _animation("GIF")
    webp = Convert(format="webp")
    assert run(whole, webp)[0].outputs[0].frames == 3
    cut = whole[: int(len(whole) * share)]
    for operation in (webp, PNG):
        with pytest.raises(BrokenImage):
            run(cut, operation)
    assert run(cut, webp, damaged="accept")[0].source.damaged


@pytest.mark.parametrize(("kind", "marker"), [("png", 12), ("gif", 1), ("jpeg", 2)])
def test_a_missing_end_marker_alone_is_damage_in_every_format_that_has_one(run: Run, kind: str, marker: int) -> None:
    whole = noise(kind)
    with pytest.raises(BrokenImage):
        run(whole[:-marker])
    result, image = run(whole[:-marker], damaged="accept")
    assert result.source.damaged
    assert image.convert("RGB").tobytes() == run(whole)[1].convert("RGB").tobytes()


def _scan(data: bytes) -> int:
    """Where the data of the first scan begins."""
    start = data.index(b"\xff\xda")
    return start + 2 + int.from_bytes(data[start + 2 : start + 4])


HARMLESS: dict[str, Callable[[bytes], bytes]] = {
    "stray bytes before the end marker": lambda data: data[:-2] + b"abcd" * 9 + b"\xff\xd9",
    "stray bytes in the header": lambda data: data[:20] + b"abcd" + data[20:],
    "many bytes of one value before the end marker": lambda data: data[:-2] + bytes(500) + b"\xff\xd9",
    "bytes after the end": lambda data: data + b"trailer" * 9,
    "an unknown revision of JFIF": lambda data: data.replace(b"JFIF\0\x01", b"JFIF\0\x05", 1),
    "an unknown colour transform": lambda data: (
        data[:2] + b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x07" + data[20:]
    ),
    "fill bytes before a marker": lambda data: data[:20] + b"\xff\xff\xff" + data[20:],
}


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("oddity", HARMLESS)
def test_what_harms_no_pixel_is_no_damage(run: Run, kind: str, oddity: str) -> None:
    whole = noise(**JPEGS[kind])
    changed = HARMLESS[oddity](whole)
    assert changed != whole
    result, image = run(changed)
    assert not result.source.damaged
    assert image.convert("RGB").tobytes() == run(whole)[1].convert("RGB").tobytes()


@pytest.mark.parametrize("kind", [kind for kind in JPEGS if kind != "progressive"])
def test_the_scan_parameters_of_some_samsung_phones_are_no_damage(run: Run, kind: str) -> None:
    whole = noise(**JPEGS[kind])
    start = _scan(whole)
    result, image = run(whole[: start - 3] + b"\0\0\0" + whole[start:])
    assert not result.source.damaged
    assert image.tobytes() == run(whole)[1].tobytes()


def test_damage_and_oddities_together_are_damage(run: Run) -> None:
    whole = noise(quality=90)
    start = _scan(whole)
    odd = whole[:20] + b"abcd" + whole[20 : start - 3] + b"\0\0\0" + whole[start:-900] + b"\xff\xd9"
    with pytest.raises(BrokenImage):
        run(odd)


def test_a_jpeg_of_12_bits_is_called_by_its_name(run: Run) -> None:
    data = bytearray(noise())
    data[data.index(b"\xff\xc0") + 4] = 12
    with pytest.raises(UnsupportedPixels, match="12 bits per channel"):
        run(bytes(data))


@pytest.mark.parametrize("kind", ["png", "gif", "bmp"])
def test_half_of_another_format_is_accepted_on_request(run: Run, kind: str) -> None:
    whole = noise(kind)
    half = whole[: len(whole) // 2]
    with pytest.raises(BrokenImage):
        run(half)
    result, image = run(half, damaged="accept")
    assert result.source.damaged
    assert image.size == (200, 150)


@pytest.mark.parametrize("kind", ["webp", "avif"])
def test_what_cannot_be_decoded_in_part_is_refused_even_on_request(run: Run, kind: str) -> None:
    whole = noise(kind)
    with pytest.raises(BrokenImage):
        run(whole[: len(whole) // 2], damaged="accept")


@pytest.mark.parametrize("kind", ["png", "webp", "gif", "tiff", "avif", "bmp"])
def test_a_hole_in_another_format_is_refused(run: Run, kind: str) -> None:
    data = noise(kind)
    with pytest.raises(BrokenImage):
        run(data[: len(data) // 3] + data[2 * len(data) // 3 :])


def test_a_whole_source_is_not_called_damaged_because_damage_would_be_accepted(run: Run) -> None:
    assert not run(noise(), damaged="accept")[0].source.damaged


def test_a_bitmap_whose_header_leads_nowhere_is_damaged(run: Run) -> None:
    header = b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 9999, 40, 8, 8, 1, 24, 0, 0, 0, 0, 0, 0)
    with pytest.raises(BrokenImage):
        run(header)


COLLECTS_GARBAGE_IN_A_WARNING = """
import gc
import logging
import sys

from images_service import adapters
import pyvips


class Collects(logging.Handler):
    def emit(self, record):
        gc.collect()


def waste(data):
    image = pyvips.Image.new_from_buffer(data, "", fail_on="none", access="sequential")
    image.copy_memory()
    cycle = [image]
    cycle.append(cycle)


logging.getLogger("pyvips").addHandler(Collects())
with open(sys.argv[1], "rb") as file:
    data = file.read()
for _ in range(30):
    waste(data)
"""


def test_a_warning_of_libvips_within_a_warning_does_not_end_the_process(tmp_path: Path) -> None:
    source = tmp_path / "damaged.jpg"
    source.write_bytes(HOLES["a third is missing"](noise()))
    command = [sys.executable, "-c", COLLECTS_GARBAGE_IN_A_WARNING, str(source)]
    environment = {**os.environ, "VIPS_WARNING": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_of_a_bitmap_of_runs_that_ends_early_the_rest_is_black(run: Run) -> None:
    width, height = 600, 300
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, 0, 0, 0, 2, 2)
    colours = bytes([0, 0, 0, 0]) + bytes([255, 255, 255, 0])
    row = b"\xff\x01\xff\x01\x5a\x01\x00\x00"  # 255, 255 and 90 pixels in white
    begin = 14 + len(header) + len(colours)
    source = b"BM" + struct.pack("<IHHI", begin + 8, 0, 0, begin) + header + colours + row
    with pytest.raises(BrokenImage):
        run(source)
    result, image = run(source, damaged="accept")
    assert (image.size, result.source.damaged) == ((width, height), True)
    assert image.convert("L").tobytes() == bytes(width * (height - 1)) + b"\xff" * width
