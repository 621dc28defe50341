"""Which picture of a source is taken, and what of it comes out: pages, numbers, colours, depth, animations."""

import io
import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pyvips  # type: ignore[import-untyped]  # it ships stubs, but no py.typed marker
from PIL import Image, ImageChops, ImageCms, ImageSequence, TiffImagePlugin
from PIL.Image import Image as Picture

from images_service.adapters import open_resources
from images_service.adapters.profiles import adobe_rgb
from images_service.errors import BrokenImage, ImpossibleOperation, MissingDecoder, SourceTooLarge, UnsupportedPixels
from images_service.handlers import process_image
from images_service.settings import ImagesSettings
from jobkit.contracts.images import (
    Compress,
    Convert,
    Crop,
    Flip,
    Operation,
    ProcessedImage,
    ProcessImage,
    Resize,
    Rotate,
    Thumbnail,
)

PNG = Convert(format="png")
SUBFILE, ORIENTATION, UNIT, FILL_ORDER, PHOTOMETRIC, DNG_VERSION = 254, 274, 296, 266, 262, 50706
EXTRA_SAMPLES = 338
Run = Callable[..., tuple[ProcessedImage, Picture]]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with open_resources(ImagesSettings(storage_url=str(tmp_path))) as resources:

        def process(source: bytes, *operations: Operation, **fields: object) -> tuple[ProcessedImage, Picture]:
            (tmp_path / "source").write_bytes(source)
            job = ProcessImage.model_validate({"source": "source", "operations": operations or (PNG,), **fields})
            result = process_image(
                job, resources.storage, max_pixels=1_000_000, progress=lambda *_, **__: None, memory=resources.memory
            )
            return result, Image.open(io.BytesIO((tmp_path / result.outputs[0].key).read_bytes()))

        yield process


def saved(image: Picture, kind: str = "png", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def scene(seed: int, size: tuple[int, int] = (400, 300)) -> Picture:
    """Shapes that are recognised at any size."""
    return Image.frombytes("RGB", (8, 6), random.Random(seed).randbytes(144)).resize(size, Image.Resampling.BICUBIC)


def pages(*images: Picture, tags: tuple[dict[int, object], ...] = ()) -> bytes:
    """A TIFF of these pages, each with its tags."""
    buffer = io.BytesIO()
    with TiffImagePlugin.AppendingTiffWriter(buffer, new=True) as writer:
        for number, image in enumerate(images):
            image.encoderinfo = {}
            image.save(writer, "tiff", tiffinfo=tags[number] if number < len(tags) else {})
            writer.newFrame()
    return buffer.getvalue()


def patched(data: bytes, wanted: int, value: int) -> bytes:
    """The TIFF with another value for a tag of its first directory."""
    changed = bytearray(data)
    (at,) = struct.unpack_from("<I", data, 4)
    for entry in range(at + 2, at + 2 + 12 * struct.unpack_from("<H", data, at)[0], 12):
        if struct.unpack_from("<H", data, entry)[0] == wanted:
            struct.pack_into("<H", changed, entry + 8, value)
            return bytes(changed)
    raise AssertionError(wanted)


def with_tag_that_leads_nowhere(data: bytes, tag: int) -> bytes:
    """The TIFF with another directory at its end, whose last entry points out of the file."""
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    entries = data[at + 2 : at + 2 + 12 * count] + struct.pack("<HHII", tag, 4, 1 if tag == 34665 else 9, len(data) * 9)
    return data[:4] + struct.pack("<I", len(data)) + data[8:] + struct.pack("<H", count + 1) + entries + bytes(4)


# Pages ----------------------------------------------------------------------------------------------------------------


def test_a_page_that_is_marked_as_a_preview_is_passed_over(run: Run) -> None:
    result, image = run(pages(scene(1, (80, 60)), scene(1), tags=({SUBFILE: 1},)))
    assert (image.size, result.source.page, result.source.pages) == ((400, 300), 2, 2)


def test_a_first_page_that_is_a_smaller_copy_of_a_later_one_is_passed_over(run: Run) -> None:
    result, image = run(pages(scene(1, (80, 60)), scene(2), scene(1, (600, 450)), tags=()))
    assert (image.size, result.source.page, result.source.pages) == ((600, 450), 3, 3)


def test_a_page_above_the_limit_is_not_decoded_to_compare_it(run: Run) -> None:
    huge = patched(patched(pages(scene(1)), 256, 60_000), 257, 60_000)
    small = pages(scene(1, (80, 60)))
    joined = bytearray(small + huge[8:])  # not valid as it is: the second directory is found by its offset alone
    (at,) = struct.unpack_from("<I", small, 4)
    end = at + 2 + 12 * struct.unpack_from("<H", small, at)[0]
    struct.pack_into("<I", joined, end, len(small) + struct.unpack_from("<I", huge, 4)[0] - 8)
    with pytest.raises(SourceTooLarge, match=r"60000 x 60000 pixels on page 2, of which page 1 .* set the job's page"):
        run(bytes(joined))
    assert run(bytes(joined), page=1)[1].size == (80, 60)


@pytest.mark.parametrize("sizes", [((400, 300), (400, 300)), ((80, 60), (400, 300)), ((400, 300), (80, 60))])
def test_of_different_pages_the_first_is_taken(run: Run, sizes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    result, image = run(pages(scene(1, sizes[0]), scene(2, sizes[1])))
    assert (image.size, result.source.page) == (sizes[0], 1)


def test_a_page_can_be_asked_for(run: Run) -> None:
    source = pages(scene(1), scene(2), scene(3))
    assert ImageChops.difference(run(source, page=2)[1].convert("RGB"), scene(2)).getbbox() is None
    with pytest.raises(ImpossibleOperation, match="has 3 pages, and page 4 was asked for"):
        run(source, page=4)
    with pytest.raises(ImpossibleOperation, match="only a TIFF has several"):
        run(saved(scene(1)), page=2)


def test_a_page_that_cannot_be_decoded_does_no_harm_to_the_others(run: Run) -> None:
    source = patched(pages(scene(1), scene(2)), 259, 6)  # the first is said to be a JPEG as in TIFF 6.0
    result, image = run(source, page=2)
    assert ImageChops.difference(image.convert("RGB"), scene(2)).getbbox() is None
    assert (result.source.page, result.source.pages, result.source.damaged) == (2, 2, False)


@pytest.mark.parametrize("layout", [{"subifd": True}, {}])
def test_of_a_pyramid_the_full_size_is_taken(run: Run, layout: dict[str, bool]) -> None:
    image = pyvips.Image.new_from_memory(scene(1).tobytes(), 400, 300, 3, "uchar").copy(interpretation="srgb")
    source = image.tiffsave_buffer(pyramid=True, tile=True, tile_width=128, tile_height=128, **layout)
    assert run(source)[1].size == (400, 300)


@pytest.mark.parametrize(
    ("tags", "kind"),
    [({DNG_VERSION: b"\1\4\0\0", SUBFILE: 1}, "DNG"), ({SUBFILE: 0}, "sensor data")],
)
def test_of_a_raw_file_no_preview_is_taken(run: Run, tags: dict[int, object], kind: str) -> None:
    source = pages(scene(1, (80, 60)), scene(1), tags=(tags,))
    if kind == "sensor data":
        source = patched(source, PHOTOMETRIC, 32803)
    with pytest.raises(UnsupportedPixels, match=rf"a raw file of a camera \({kind}.*400 x 300 pixels.*developed"):
        run(source)


@pytest.mark.parametrize(("tag", "value"), [(ORIENTATION, 0), (ORIENTATION, 9), (UNIT, 0), (UNIT, 9), (FILL_ORDER, 0)])
def test_a_tag_out_of_range_is_read_as_its_default(run: Run, tag: int, value: int) -> None:
    resolution = {282: TiffImagePlugin.IFDRational(72), 283: TiffImagePlugin.IFDRational(72)}
    source = saved(scene(1), "tiff", tiffinfo={ORIENTATION: 1, UNIT: 2, FILL_ORDER: 1, **resolution})
    image = run(patched(source, tag, value))[1]
    assert ImageChops.difference(image.convert("RGB"), scene(1)).getbbox() is None


# Numbers and colours --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "text"),
    [
        ("float", "floating-point numbers of 32 bits"),
        ("double", "floating-point numbers of 64 bits"),
        ("int", "signed integers of 32 bits"),
        ("uint", "integers of 32 bits"),
        ("short", "signed integers of 16 bits"),
        ("char", "signed integers of 8 bits"),
        ("complex", "complex numbers of 64 bits"),
    ],
)
@pytest.mark.parametrize("operation", [PNG, Resize(width=4)], ids=["decoded", "resized"])
@pytest.mark.parametrize("bands", [1, 3])
def test_numbers_without_a_brightness_are_refused_by_their_name(
    run: Run, number: str, text: str, operation: Operation, bands: int
) -> None:
    source = pyvips.Image.black(8, 8, bands=bands).cast(number).tiffsave_buffer()
    with pytest.raises(UnsupportedPixels, match=text):
        run(source, operation)


@pytest.mark.parametrize("tag", [34665, 50000, 330])
def test_numbers_are_refused_though_another_tag_leads_out_of_the_file(run: Run, tag: int) -> None:
    ramp = pyvips.Image.identity().cast("float") / 255
    with pytest.raises(UnsupportedPixels, match="floating-point"):
        run(with_tag_that_leads_nowhere(ramp.tiffsave_buffer(), tag))


def test_a_tag_out_of_range_is_mended_though_another_leads_out_of_the_file(run: Run) -> None:
    source = patched(pages(scene(1), tags=({ORIENTATION: 1},)), ORIENTATION, 9)
    assert run(with_tag_that_leads_nowhere(source, 34665))[1].size == (400, 300)


def test_lab_of_8_bits_is_refused_by_its_name_and_of_16_is_converted(run: Run) -> None:
    with pytest.raises(UnsupportedPixels, match="CIELab"):
        run(saved(Image.new("LAB", (8, 8)), "tiff"))
    red = pyvips.Image.new_from_memory(bytes([200, 30, 30]) * 64, 8, 8, 3, "uchar").copy(interpretation="srgb")
    for kind in ("labs", "lab"):
        assert run(red.colourspace(kind).tiffsave_buffer())[1].getpixel((4, 4)) == (200, 30, 30)


def test_a_tiff_whose_compression_has_no_decoder_is_not_called_damaged(run: Run) -> None:
    with pytest.raises(MissingDecoder, match="Zstandard"):
        run(patched(saved(scene(1), "tiff"), 259, 50000))


@pytest.mark.parametrize("tile", [{}, {"tile": True, "tile_width": 64, "tile_height": 64}], ids=["strips", "tiles"])
def test_a_tiff_with_the_old_jpeg_compression_is_refused_before_it_comes_out_black(
    run: Run, tile: dict[str, Any]
) -> None:
    image = pyvips.Image.new_from_memory(scene(1).tobytes(), 400, 300, 3, "uchar").copy(interpretation="srgb")
    with pytest.raises(MissingDecoder, match=r"JPEG as in TIFF 6\.0"):
        run(patched(image.tiffsave_buffer(**tile), 259, 6))


def test_tiles_of_single_channels_are_not_called_damaged(run: Run) -> None:
    image = pyvips.Image.new_from_memory(scene(1).tobytes(), 400, 300, 3, "uchar").copy(interpretation="srgb")
    source = image.tiffsave_buffer(tile=True, tile_width=128, tile_height=128)
    with pytest.raises(UnsupportedPixels, match="tiles of single channels"):
        run(patched(source, 284, 2))


def test_brightness_and_chroma_are_not_taken_for_red_green_and_blue(run: Run) -> None:
    with pytest.raises(UnsupportedPixels, match="YCbCr colours outside of JPEG compression"):
        run(saved(scene(1).convert("YCbCr"), "tiff"))
    assert run(saved(scene(1).convert("YCbCr"), "tiff", compression="jpeg"))[1].size == (400, 300)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_a_channel_is_transparency_unless_the_file_calls_it_unspecified(run: Run, mode: str) -> None:
    picture = scene(1).convert(mode)
    picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    source = saved(picture, "tiff")
    kept, dropped = run(source)[1], run(patched(source, EXTRA_SAMPLES, 0))[1]
    unnamed = run(source.replace(struct.pack("<HH", EXTRA_SAMPLES, 3), struct.pack("<HH", 351, 3)))[1]
    assert (kept.mode, unnamed.mode, dropped.mode) == (mode, mode, mode[:-1])
    assert ImageChops.difference(dropped, scene(1).convert(mode[:-1])).getbbox() is None


def test_grey_with_two_further_channels_is_refused(run: Run) -> None:
    with pytest.raises(UnsupportedPixels, match="has 3 channels: only colours and transparency"):
        run(patched(saved(scene(1), "tiff"), PHOTOMETRIC, 1))


@pytest.mark.parametrize("reach", ["limited", "full"])
@pytest.mark.parametrize("mode", ["L", "LA"])
def test_an_avif_without_colours_is_as_black_and_as_white_as_it_was(run: Run, mode: str, reach: str) -> None:
    picture = Image.linear_gradient("L").convert(mode)
    image = run(saved(picture, "avif", subsampling="4:0:0", range=reach, quality=100))[1].convert("L")
    assert max(abs(image.tobytes()[256 * y + 9] - y) for y in range(256)) <= 3


def test_an_avif_in_colour_is_not_stretched(run: Run) -> None:
    picture = Image.linear_gradient("L").convert("RGBA")
    picture.putalpha(99)  # transparency is an image without colours
    image = run(saved(picture, "avif", range="limited", quality=100))[1].convert("RGB").convert("L")
    assert max(abs(image.tobytes()[256 * y + 9] - y) for y in range(256)) <= 3


def test_an_offset_that_no_file_has_is_damage_and_no_crash(run: Run) -> None:
    source = b"II+\0\x08\0\0\0" + struct.pack("<Q", 2**63 + 8) + bytes(40)
    with pytest.raises(BrokenImage):
        run(source)


def test_a_heic_names_the_decoder_that_it_needs(run: Run) -> None:
    with pytest.raises(MissingDecoder, match=r"HEIC image.*HEVC decoder"):
        run(bytes.fromhex("0000001c66747970686569630000000068656963"))


def exif(space: int, index: bytes) -> bytes:
    """EXIF data with a colour space, and an interoperability index if there is one."""
    ifd0 = struct.pack("<HHHIII", 1, 0x8769, 4, 1, 26, 0)
    entries = struct.pack("<HHII", 0xA001, 3, 1, space) + struct.pack("<HHII", 0xA005, 4, 1, 56)
    interoperability = struct.pack("<HHHI4sI", 1, 1, 2, 4, index, 0)
    return b"II*\0\x08\0\0\0" + ifd0 + struct.pack("<H", 2) + entries + bytes(4) + interoperability


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
@pytest.mark.parametrize("operation", [PNG, Resize(width=20)], ids=["decoded", "resized"])
@pytest.mark.parametrize(
    ("space", "index", "colour"),
    # Expected after the formulas of Adobe RGB (1998) and IEC 61966-2-1.
    [(65535, b"R03\0", (205, 90, 56)), (2, b"\0\0\0\0", (205, 90, 56)), (1, b"R98\0", (180, 90, 60))],
)
def test_adobe_rgb_that_exif_alone_tells_is_converted(
    run: Run, kind: str, operation: Operation, space: int, index: bytes, colour: tuple[int, int, int]
) -> None:
    prefix = b"" if kind == "png" else b"Exif\0\0"
    every: dict[str, dict[str, Any]] = {"jpeg": {"quality": 98}, "webp": {"lossless": True}}
    options = every.get(kind, {})
    source = saved(Image.new("RGB", (40, 30), (180, 90, 60)), kind, exif=prefix + exif(space, index), **options)
    pixel = run(source, operation, PNG)[1].convert("RGB").getpixel((10, 10))
    assert pixel == pytest.approx(colour, abs=2)


def test_adobe_rgb_that_the_exif_data_of_a_tiff_tells_is_converted(run: Run) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[0x8769] = {0xA001: 2}
    source = saved(Image.new("RGB", (40, 30), (180, 90, 60)), "tiff", tiffinfo=tags)
    assert run(source)[1].getpixel((10, 10)) == pytest.approx((205, 90, 56), abs=2)


def test_the_profile_for_adobe_rgb_is_read_by_another_library() -> None:
    profile = ImageCms.ImageCmsProfile(io.BytesIO(adobe_rgb()))
    transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), "RGB", "RGB")
    image = ImageCms.applyTransform(Image.new("RGB", (1, 1), (180, 90, 60)), transform)
    assert image is not None
    assert image.getpixel((0, 0)) == (205, 90, 56)


def test_the_profile_stays_on_request_and_the_pixels_with_it(run: Run) -> None:
    source = saved(Image.new("RGB", (40, 30), (180, 90, 60)), icc_profile=adobe_rgb())
    _, image = run(source, Resize(width=20), keep_profile=True)
    assert (image.getpixel((5, 5)), image.info["icc_profile"]) == ((180, 90, 60), adobe_rgb())


@pytest.mark.parametrize("form", ["jpeg", "png", "webp", "avif"])
def test_metadata_stays_on_request_but_the_orientation_that_was_carried_out(run: Run, form: str) -> None:
    data = Image.Exif()
    data[0x010F], data[ORIENTATION] = "Camera", 6
    source = saved(scene(1), "jpeg", exif=data)
    _, image = run(source, Convert(format=form), keep_metadata=True)
    assert image.size == (300, 400)
    assert (image.getexif()[0x010F], image.getexif().get(ORIENTATION, 1)) == ("Camera", 1)


def test_kept_metadata_no_longer_names_the_colours_that_were_converted(run: Run) -> None:
    source = saved(Image.new("RGB", (40, 30), (180, 90, 60)), exif=exif(65535, b"R03\0"))
    once = run(source, keep_metadata=True)[1]
    found = once.getexif()
    assert (found.get_ifd(0x8769)[0xA001], found.get_ifd(0xA005).get(1)) == (1, None)
    again = run(saved(once, exif=found), keep_metadata=True)[1]
    assert again.getpixel((10, 10)) == once.getpixel((10, 10)) == pytest.approx((205, 90, 56), abs=2)


def grey_profile() -> bytes:
    """A profile for greys whose values are proportional to the light."""
    tags = {
        b"desc": struct.pack(">4sII", b"desc", 0, 2) + b"g\0" + bytes(78),
        b"cprt": b"text" + bytes(5),
        b"wtpt": struct.pack(">4s4x3i", b"XYZ ", 63190, 65536, 54061),
        b"kTRC": struct.pack(">4sIIH", b"curv", 0, 1, 256),
    }
    table, content = struct.pack(">I", len(tags)), b""
    for tag, value in tags.items():
        table += struct.pack(">4sII", tag, 132 + 12 * len(tags) + len(content), len(value))
        content += value + bytes(-len(value) % 4)
    header = struct.pack(
        ">II4s4s4s4s12s4s28x3i",
        *(128 + len(table + content), 0, b"\x02\x10\0\0", b"mntr", b"GRAY", b"XYZ "),
        *(bytes(12), b"acsp", 63190, 65536, 54061),
    )
    return header.ljust(128, b"\0") + table + content


@pytest.mark.parametrize("form", ["webp", "avif", "png"])
def test_a_profile_for_greys_stays_where_it_fits_and_is_converted_where_it_does_not(run: Run, form: str) -> None:
    source = saved(Image.new("L", (40, 30), 55), icc_profile=grey_profile())
    image = run(source, Convert(format=form), Compress(quality=100), keep_profile=True)[1]
    if form == "png":
        assert (image.mode, image.getpixel((10, 10)), image.info["icc_profile"]) == ("L", 55, grey_profile())
    else:  # 55 / 255 of the light is sRGB's 128 (IEC 61966-2-1)
        assert "icc_profile" not in image.info
        assert image.convert("L").getpixel((10, 10)) == pytest.approx(128, abs=3)


def test_greys_with_a_profile_that_get_colours_are_converted(run: Run) -> None:
    source = saved(Image.new("L", (40, 30), 55), icc_profile=grey_profile())
    image = run(source, Rotate(angle=30, background="#ff0000"), PNG, keep_profile=True)[1]
    assert image.getpixel((0, 0)) == (255, 0, 0)
    centre = image.getpixel((image.width // 2, image.height // 2))
    assert centre == pytest.approx((128, 128, 128), abs=3)


def test_a_profile_that_cannot_be_used_is_passed_over(run: Run) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes().replace(b"para", b"xxxx")
    source = saved(scene(1), icc_profile=profile)
    assert ImageChops.difference(run(source)[1], scene(1)).getbbox() is None


def test_a_wrong_colour_transform_of_adobe_is_no_damage(run: Run) -> None:
    data = saved(scene(1), "jpeg", quality=95)
    marked = data[:2] + b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x02" + data[20:]  # as CMYK files have it
    assert ImageChops.difference(run(marked)[1], run(data)[1]).getbbox() is None


def lossless_jpeg(rows: list[bytes]) -> bytes:
    """A grey JPEG without loss (T.81, annex H): each value is told by its difference to the one before, or above."""
    bits = ""
    for number, row in enumerate(rows):
        for place, value in enumerate(row):
            guess = row[place - 1] if place else rows[number - 1][0] if number else 128
            length = abs(value - guess).bit_length()
            kept = value - guess if value >= guess else value - guess + (1 << length) - 1
            bits += f"{length:04b}" + (f"{kept:0{length}b}" if length else "")
    bits += "1" * (-len(bits) % 8)
    scan = int(bits, 2).to_bytes(len(bits) // 8).replace(b"\xff", b"\xff\0")
    frame = struct.pack(">BHHBBBB", 8, len(rows), len(rows[0]), 1, 1, 0x11, 0)
    codes = bytes([0, 0, 0, 0, 9] + 12 * [0]) + bytes(range(9))  # of four bits each
    segments = ((0xC3, frame), (0xC4, codes), (0xDA, bytes([1, 1, 0, 1, 0, 0])))
    head = b"".join(struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content for marker, content in segments)
    return b"\xff\xd8" + head + scan + b"\xff\xd9"


def test_of_a_lossless_jpeg_no_detail_is_left_out(run: Run) -> None:
    source = lossless_jpeg([bytes(32 * [40] + 32 * [200])] * 48)
    assert run(source)[1].tobytes()[:64] == bytes(32 * [40] + 32 * [200])
    small = run(source, Resize(width=4), PNG)[1].convert("L").tobytes()
    assert max(abs(small[0] - 40), abs(small[3] - 200)) <= 12


# Depth and size -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@pytest.mark.parametrize("kind", ["png", "tiff"])
@pytest.mark.parametrize(
    "operation",
    [Compress(quality=100), Crop(width=300, height=200, left=7, top=3), Flip(direction="vertical"), Rotate(angle=90)],
    ids=lambda operation: operation.kind,
)
def test_what_moves_pixels_keeps_their_depth(
    run: Run, tmp_path: Path, kind: str, depth: int, operation: Operation
) -> None:
    grey = pyvips.Image.new_from_memory(scene(1).convert("L").tobytes(), 400, 300, 1, "uchar")
    source = grey.copy(interpretation="b-w").pngsave_buffer(bitdepth=depth)
    result, image = run(source, operation, Convert(format=kind))
    assert image.mode == ("1" if depth == 1 else "L")
    assert result.outputs[0].bytes < 1.5 * len(source) + 200
    written = pyvips.Image.new_from_buffer((tmp_path / result.outputs[0].key).read_bytes(), "")
    assert written.get("bits-per-sample") == depth
    assert set(image.convert("L").tobytes()) <= set(Image.open(io.BytesIO(source)).convert("L").tobytes())


def test_a_fax_stays_a_fax(run: Run) -> None:
    page = scene(1).convert("L").point(lambda value: 255 * (value > 128)).convert("1")
    source = saved(page, "tiff", compression="group4")
    result, image = run(source, Crop(width=400, height=299, left=0, top=0))
    assert image.info["compression"] == "group4"
    assert image.tobytes() == page.crop((0, 0, 400, 299)).tobytes()
    assert result.outputs[0].bytes < 1.5 * len(source)


def test_a_palette_stays_one_if_no_pixel_changes(run: Run) -> None:
    source_image = scene(1).quantize(8, dither=Image.Dither.NONE)
    source = saved(source_image, optimize=True)
    result, image = run(source, Crop(width=400, height=299, left=0, top=0))
    assert image.mode == "P"
    assert result.outputs[0].bytes < 1.5 * len(source)
    kept = source_image.convert("RGB").crop((0, 0, 400, 299))
    assert ImageChops.difference(image.convert("RGB"), kept).getbbox() is None


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_a_bitmap_is_read_and_becomes_a_png(run: Run, mode: str) -> None:
    source = scene(1).convert(mode)
    result, image = run(saved(source, "bmp"), Flip(direction="horizontal"))
    assert (result.source.format, image.format) == ("bmp", "PNG")
    flipped = source.convert("RGB").transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert ImageChops.difference(image.convert("RGB"), flipped).getbbox() is None


@pytest.mark.parametrize(
    ("width", "error", "text"),
    [
        (5000, SourceTooLarge, "5000 x 5000 pixels"),
        (-127, SourceTooLarge, "exceeds limit"),
        (0, BrokenImage, "damaged"),
    ],
)
def test_a_bitmap_is_refused_by_its_header(run: Run, width: int, error: type[Exception], text: str) -> None:
    header = b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, width, 5000, 1, 24, 0, 0, 0, 0, 0, 0)
    with pytest.raises(error, match=text):
        run(header)


# Animations -----------------------------------------------------------------------------------------------------------

COLOURS = [(255, 0, 0), (0, 0, 255), (0, 255, 0)]
DELAYS = [100, 200, 300]


def animation(kind: str) -> bytes:
    frames = [Image.new("RGB", (60, 40), colour) for colour in COLOURS]
    lossless = {"lossless": True} if kind == "webp" else {}
    return saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=DELAYS, loop=0, **lossless)


def frames_of(image: Picture) -> list[tuple[tuple[int, ...], int]]:
    found = []
    for number in range(getattr(image, "n_frames", 1)):
        image.seek(number)
        pixel = image.convert("RGB").getpixel((image.width // 2, image.height // 2))
        assert isinstance(pixel, tuple)
        found.append((pixel, image.info["duration"]))
    return found


@pytest.mark.parametrize("kind", ["gif", "webp"])
@pytest.mark.parametrize(
    ("operation", "size"),
    [
        (Resize(width=30), (30, 20)),
        (Resize(width=10, height=10, fit="cover"), (10, 10)),
        (Crop(width=20, height=10, left=5, top=5), (20, 10)),
        (Crop(width=20, height=10, gravity="smart"), (20, 10)),
        (Rotate(angle=90), (40, 60)),
        (Flip(direction="vertical"), (60, 40)),
        (Convert(format="webp"), (60, 40)),
        (Convert(format="gif"), (60, 40)),
        (Convert(format="auto"), (60, 40)),
    ],
)
def test_an_animation_keeps_its_frames_and_their_times(
    run: Run, kind: str, operation: Operation, size: tuple[int, int]
) -> None:
    result, image = run(animation(kind), operation)
    assert (result.source.frames, result.outputs[0].frames, image.size) == (3, 3, size)
    assert [result.source.width, result.source.height] == [60, 40]
    for (pixel, delay), colour, expected in zip(frames_of(image), COLOURS, DELAYS, strict=True):
        assert pixel == pytest.approx(colour, abs=8)
        assert delay == expected


@pytest.mark.parametrize("form", ["jpeg", "png", "avif", "tiff"])
def test_where_the_format_holds_no_animation_the_first_frame_is_written(run: Run, form: str) -> None:
    result, image = run(animation("gif"), Convert(format=form))
    assert (result.source.frames, result.outputs[0].frames, image.size) == (3, 1, (60, 40))
    assert image.convert("RGB").getpixel((30, 20)) == pytest.approx(COLOURS[0], abs=4)


def test_the_first_frame_can_be_asked_for(run: Run) -> None:
    result, image = run(animation("gif"), Resize(width=30), Thumbnail(size=10), animation="first")
    assert (image.format, result.outputs[0].frames, result.source.frames) == ("PNG", 1, 3)


def test_frames_count_against_the_limit_of_pixels(run: Run) -> None:
    images = [Image.new("L", (800, 700), shade) for shade in (0, 255)]
    source = saved(images[0], "gif", save_all=True, append_images=images[1:])
    with pytest.raises(SourceTooLarge, match=r"2 frames of 800 x 700 pixels.* animation='first'"):
        run(source, Resize(width=80))
    assert run(source, Resize(width=80), animation="first")[1].width == 80
    assert run(source, Convert(format="jpeg"))[1].width == 800


@pytest.mark.parametrize(("allowed", "frames"), [(("webp", "png"), 2), (("jpeg", "avif"), 1)])
def test_auto_writes_an_animation_in_no_other_format_than_the_allowed(
    run: Run, allowed: tuple[str, ...], frames: int
) -> None:
    source = saved(Image.new("L", (8, 8), 90), "gif", save_all=True, append_images=[Image.new("L", (8, 8), 9)])
    output = run(source, Convert.model_validate({"format": "auto", "allowed": allowed}))[0].outputs[0]
    assert output.format in allowed
    assert output.frames == frames


def test_the_frames_of_an_animated_png_are_counted_though_the_first_is_read(run: Run) -> None:
    source = saved(Image.new("RGB", (8, 8), "red"), save_all=True, append_images=[Image.new("RGB", (8, 8), "blue")])
    result, image = run(source)
    assert (result.source.frames, result.outputs[0].frames, image.getpixel((4, 4))) == (2, 1, (255, 0, 0))


#: The indices of one and of two pixels, compressed; each pixel has the first colour.
ONE_PIXEL, TWO_PIXELS = bytes.fromhex("0202440100"), bytes.fromhex("0202040a00")


def opaque_gif(*frames: tuple[int, int]) -> bytes:
    """A GIF of 2 x 1 pixels without a transparent colour; each frame has a disposal and a number of pixels."""
    data = b"GIF89a" + struct.pack("<HHBBB", 2, 1, 0x80, 0, 0) + b"\xff\0\0" + b"\0\0\xff"
    for disposal, pixels in frames:
        data += b"\x21\xf9\x04" + struct.pack("<BHBB", disposal << 2, 10, 0, 0)
        data += b"\x2c" + struct.pack("<4HB", 0, 0, pixels, 1, 0) + (ONE_PIXEL if pixels == 1 else TWO_PIXELS)
    return data + b"\x3b"


def test_what_no_frame_covers_is_transparent(run: Run) -> None:
    result, image = run(opaque_gif((0, 1)))
    shown = image.convert("RGBA").tobytes()
    assert (shown[:4], shown[7], result.source.frames) == (b"\xff\0\0\xff", 0, 1)
    onto = Convert(format="jpeg", background="#00ff00")
    assert run(opaque_gif((0, 1)), onto, Compress(quality=100))[1].convert("L").tobytes()[1] > 100


def test_what_no_frame_of_an_animation_covers_is_transparent(run: Run) -> None:
    result, image = run(opaque_gif((0, 1), (2, 1), (0, 2)), Convert(format="gif"))
    shown = [frame.convert("RGBA").tobytes()[7] for frame in ImageSequence.Iterator(image)]
    assert (result.source.frames, result.outputs[0].frames) == (3, len(shown))
    assert (shown[0], shown[-1]) == (0, 255)


def test_an_opaque_gif_stays_opaque(run: Run) -> None:
    assert run(opaque_gif((0, 2), (0, 1)))[1].mode in ("P", "RGB")


@pytest.mark.parametrize("form", ["gif", "webp"])
def test_the_frames_that_were_written_are_counted(run: Run, form: str) -> None:
    result, image = run(opaque_gif((1, 2), (1, 2), (1, 2)), Convert.model_validate({"format": form}))
    assert (result.source.frames, result.outputs[0].frames) == (3, getattr(image, "n_frames", 1))
