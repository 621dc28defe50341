"""The handler on a real directory; every output is read by Pillow, which shares no code with libvips."""

import hashlib
import io
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageCms, ImageOps, ImageStat
from PIL.Image import Image as Picture

from images_service.adapters import Resources, open_resources
from images_service.errors import ImpossibleOperation
from images_service.handlers import process_image
from images_service.settings import ImagesSettings
from jobkit.contracts.images import (
    Compress,
    Convert,
    Crop,
    Gravity,
    Operation,
    OutputFile,
    OutputFormat,
    ProcessedImage,
    ProcessImage,
    Resize,
    Thumbnail,
)

SKLEARN = find_spec("sklearn")
assert SKLEARN is not None
assert SKLEARN.origin is not None
PHOTOGRAPHS = Path(SKLEARN.origin).parent / "datasets" / "images"
RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)
ORIENTATION = 0x0112
GPS, LATITUDE = 0x8825, 2

Source = Picture | bytes
Colour = tuple[int, int, int]
Pixel = float | tuple[int, ...] | None  #: What Pillow says of one, whatever the mode.


class Desk:
    """A directory as storage, and a short way to run a job on it."""

    def __init__(self, directory: Path, resources: Resources) -> None:
        self.directory, self.resources = directory, resources
        self.progress: list[tuple[float, str, str]] = []

    def run(self, source: Source, *operations: Operation, **saving: Any) -> ProcessedImage:
        """Save a Pillow image (or bytes) as the source, process it, and return the result."""
        (self.directory / "source").write_bytes(source if isinstance(source, bytes) else saved(source, **saving))
        job = ProcessImage(source="source", operations=operations)
        return process_image(
            job,
            self.resources.storage,
            max_pixels=self.resources.max_pixels,
            progress=lambda percent, step="", note="": self.progress.append((percent, step, note)),
        )

    def image(self, source: Source, *operations: Operation, **saving: Any) -> Picture:
        """The main image that comes out, as Pillow reads it."""
        return self.read(self.run(source, *operations, **saving).outputs[0])

    def read(self, output: OutputFile) -> Picture:
        image = Image.open(self.directory / output.key)
        image.load()
        assert (image.width, image.height) == (output.width, output.height)
        assert image.format is not None
        assert image.format.lower() == output.format
        assert (self.directory / output.key).stat().st_size == output.bytes
        return image


def saved(image: Picture, kind: str = "png", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def difference(one: Picture, other: Picture) -> float:
    """The mean difference of all channel values, from 0 to 255."""
    return max(ImageStat.Stat(ImageChops.difference(one.convert("RGB"), other.convert("RGB"))).mean)


def assert_colour(pixel: Pixel, colour: Colour, tolerance: int = 12) -> None:
    assert isinstance(pixel, tuple)
    assert all(abs(a - b) <= tolerance for a, b in zip(pixel[:3], colour, strict=True)), (pixel, colour)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with open_resources(ImagesSettings(storage_url=str(tmp_path), max_pixels=4_000_000)) as resources:
        yield Desk(tmp_path, resources)


@pytest.fixture(scope="session")
def photograph() -> Picture:
    """320 x 214 pixels."""
    return Image.open(PHOTOGRAPHS / "china.jpg").convert("RGB").resize((320, 214), Image.Resampling.LANCZOS)


@pytest.fixture
def quarters() -> Picture:
    """60 x 40 pixels: red and green above, blue and white below."""
    image = Image.new("RGB", (60, 40))
    for colour, place in ((RED, (0, 0)), (GREEN, (30, 0)), (BLUE, (0, 20)), (WHITE, (30, 20))):
        image.paste(colour, (*place, place[0] + 30, place[1] + 20))
    return image


# Operations --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("resize", "size"),
    [
        (Resize(width=160), (160, 107)),
        (Resize(height=100), (150, 100)),
        (Resize(width=200, height=200), (200, 134)),
        (Resize(width=200, height=200, fit="cover"), (200, 200)),
        (Resize(width=150, height=200, fit="stretch"), (150, 200)),
        (Resize(width=640, enlarge=True), (640, 428)),
        (Resize(width=400, height=400, fit="cover", enlarge=True), (400, 400)),
        (Resize(width=200, height=300, fit="stretch", enlarge=True), (200, 300)),
        (Resize(width=640), (320, 214)),
        (Resize(width=200, height=428, fit="cover"), (100, 214)),
        (Resize(width=200, height=428, fit="stretch"), (100, 214)),
        (Resize(width=1), (1, 1)),
    ],
)
@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_a_resize_has_the_size_that_was_asked_for(
    desk: Desk, photograph: Picture, resize: Resize, size: tuple[int, int], kind: str
) -> None:
    assert desk.image(photograph, resize, kind=kind).size == size


def test_a_resized_photograph_looks_like_the_original(desk: Desk, photograph: Picture) -> None:
    resized = desk.image(photograph, Resize(width=160), Convert(format="png"), kind="jpeg")
    assert difference(resized, photograph.resize((160, 107), Image.Resampling.LANCZOS)) < 4


def test_cover_keeps_the_middle_and_the_aspect_ratio(desk: Desk) -> None:
    stripes = Image.new("RGB", (300, 100), RED)
    stripes.paste(GREEN, (100, 0, 200, 100))
    image = desk.image(stripes, Resize(width=50, height=50, fit="cover"))
    assert_colour(image.getpixel((2, 25)), GREEN, 40)
    assert_colour(image.getpixel((47, 25)), GREEN, 40)


def test_a_crop_cuts_out_exactly_that_rectangle(desk: Desk, photograph: Picture) -> None:
    image = desk.image(photograph, Crop(left=100, top=50, width=200, height=150))
    assert difference(image, photograph.crop((100, 50, 300, 200))) == 0


@pytest.mark.parametrize(
    ("gravity", "place"),
    [
        ("north-west", (0, 0)),
        ("north", (20, 0)),
        ("north-east", (40, 0)),
        ("west", (0, 10)),
        ("centre", (20, 10)),
        ("east", (40, 10)),
        ("south-west", (0, 20)),
        ("south", (20, 20)),
        ("south-east", (40, 20)),
    ],
)
def test_a_crop_by_gravity_takes_that_part(desk: Desk, gravity: Gravity, place: tuple[int, int]) -> None:
    map_of_itself = Image.new("RGB", (60, 40))
    map_of_itself.putdata([(x, y, 0) for y in range(40) for x in range(60)])
    image = desk.image(map_of_itself, Crop(width=20, height=20, gravity=gravity))
    assert image.getpixel((0, 0)) == (*place, 0)


def test_a_crop_without_a_place_takes_the_centre(desk: Desk, quarters: Picture) -> None:
    image = desk.image(quarters, Crop(width=2, height=2))
    assert [image.getpixel(at) for at in ((0, 0), (1, 0), (0, 1), (1, 1))] == [RED, GREEN, BLUE, WHITE]


def test_a_smart_crop_finds_what_draws_the_eye(desk: Desk) -> None:
    field = Image.new("RGB", (600, 100), (90, 90, 90))
    face = Image.effect_noise((60, 60), 120).convert("RGB")
    field.paste(ImageChops.multiply(face, Image.new("RGB", face.size, (255, 120, 60))), (480, 20))
    image = desk.image(field, Crop(width=100, height=100, gravity="smart"))
    assert ImageStat.Stat(image).stddev[0] > 20


@pytest.mark.parametrize(
    "crop",
    [Crop(width=61, height=10), Crop(width=10, height=41), Crop(width=31, height=20, left=30, top=0)],
)
def test_a_crop_outside_the_image_is_refused(desk: Desk, quarters: Picture, crop: Crop) -> None:
    with pytest.raises(ImpossibleOperation, match="is not inside the image of 60 x 40"):
        desk.run(quarters, crop)


def test_operations_are_applied_in_the_order_given(desk: Desk, quarters: Picture) -> None:
    assert desk.image(quarters, Crop(width=40, height=40), Resize(width=20)).size == (20, 20)
    assert desk.image(quarters, Resize(width=20), Crop(width=20, height=10)).size == (20, 10)


def test_a_thumbnail_is_a_further_output_and_the_image_goes_on(desk: Desk, photograph: Picture) -> None:
    result = desk.run(photograph, Thumbnail(size=64), Convert(format="webp"), Thumbnail(size=32), Resize(width=160))
    assert [(o.kind, o.format, o.width, o.height) for o in result.outputs] == [
        ("image", "webp", 160, 107),
        ("thumbnail", "png", 64, 43),
        ("thumbnail", "webp", 32, 21),
    ]
    for output in result.outputs:
        assert difference(desk.read(output), photograph.resize((output.width, output.height))) < 12


def test_a_thumbnail_is_never_larger_than_the_image(desk: Desk, quarters: Picture) -> None:
    thumbnail = desk.run(quarters, Thumbnail(size=500)).outputs[1]
    assert (thumbnail.width, thumbnail.height) == (60, 40)


@pytest.mark.parametrize("wanted", ["jpeg", "webp", "avif"])
def test_a_lower_quality_makes_a_smaller_file(desk: Desk, photograph: Picture, wanted: OutputFormat) -> None:
    small, large = (
        desk.run(photograph, Resize(width=160), Convert(format=wanted), Compress(quality=quality)).outputs[0].bytes
        for quality in (20, 90)
    )
    assert small < large / 2


def test_a_compressed_png_has_at_most_256_colours_and_looks_alike(desk: Desk, photograph: Picture) -> None:
    small = photograph.resize((160, 107))
    image = desk.image(small, Compress(quality=60))
    assert image.mode == "P"
    assert difference(image, small) < 10


def test_a_png_of_quality_100_is_without_loss(desk: Desk, photograph: Picture) -> None:
    small = photograph.resize((160, 107))
    assert difference(desk.image(small, Compress(quality=100)), small) == 0


@pytest.mark.parametrize("source", ["jpeg", "png", "webp", "gif", "tiff"])
@pytest.mark.parametrize("wanted", ["jpeg", "png", "webp", "avif", "tiff"])
def test_every_format_converts_into_every_other(
    desk: Desk, photograph: Picture, source: str, wanted: OutputFormat
) -> None:
    small = photograph.resize((64, 43))
    assert difference(desk.image(small, Convert(format=wanted), kind=source), small) < 12


@pytest.mark.parametrize(("source", "kept"), [("jpeg", "JPEG"), ("webp", "WEBP"), ("tiff", "TIFF"), ("gif", "PNG")])
def test_without_a_convert_the_format_stays(desk: Desk, quarters: Picture, source: str, kept: str) -> None:
    assert desk.image(quarters, Resize(width=30), kind=source).format == kept


def test_an_edge_that_the_format_cannot_hold_is_refused(desk: Desk, quarters: Picture) -> None:
    with pytest.raises(ImpossibleOperation, match="20000 x 2 pixels is too large for webp, which ends at 16383"):
        desk.run(quarters, Resize(width=20_000, height=2, fit="stretch", enlarge=True), Convert(format="webp"))


@pytest.mark.parametrize(
    "resize", [Resize(width=60_000, enlarge=True), Resize(width=65_500, height=100, fit="cover", enlarge=True)]
)
def test_a_result_above_the_pixel_limit_is_refused(desk: Desk, quarters: Picture, resize: Resize) -> None:
    with pytest.raises(ImpossibleOperation, match="IMAGES_MAX_PIXELS allows 4000000"):
        desk.run(quarters, resize)


# Orientation, colours, metadata --------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("operation", [Compress(quality=95), Resize(width=30)], ids=["decoded", "shrunk on load"])
def test_every_orientation_comes_out_upright(
    desk: Desk, quarters: Picture, orientation: int, operation: Operation
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    source = saved(quarters, "jpeg", exif=exif, quality=95)
    result = desk.run(source, operation, Convert(format="png"))
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(source)))
    assert (result.source.width, result.source.height) == upright.size
    image = desk.read(result.outputs[0])
    assert ORIENTATION not in image.getexif()
    assert difference(image, upright.resize(image.size)) < 8


def test_a_crop_refers_to_the_upright_image(desk: Desk, quarters: Picture) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # turn by 90 degrees clockwise: blue comes to the upper left
    image = desk.image(quarters, Crop(width=20, height=30, left=0, top=0), kind="jpeg", exif=exif, quality=95)
    assert_colour(image.getpixel((10, 15)), BLUE)


def test_no_metadata_leaves(desk: Desk, quarters: Picture) -> None:
    exif = Image.Exif()
    exif[0x010F] = "Camera of a private person"
    exif.get_ifd(GPS)[LATITUDE] = (52.0, 31.0, 0.0)
    source = saved(quarters, "jpeg", exif=exif, comment=b"a private note", xmp=b"<x:xmpmeta>private</x:xmpmeta>")
    assert source.count(b"rivate") == 3
    for operation in (Compress(quality=90), Convert(format="webp"), Convert(format="png"), Convert(format="tiff")):
        output = desk.run(source, operation).outputs[0]
        data = (desk.directory / output.key).read_bytes()
        assert b"rivate" not in data
        assert GPS not in desk.read(output).getexif()


@pytest.mark.parametrize("operation", [Compress(quality=95), Resize(width=30)], ids=["decoded", "shrunk on load"])
def test_colours_are_converted_from_the_embedded_profile(desk: Desk, operation: Operation) -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = srgb.replace(b"rXYZ", b"????", 1).replace(b"gXYZ", b"rXYZ", 1).replace(b"????", b"gXYZ", 1)
    image = desk.image(Image.new("RGB", (60, 40), RED), operation, kind="jpeg", quality=95, icc_profile=swapped)
    assert_colour(image.getpixel((10, 10)), GREEN)
    assert "icc_profile" not in image.info


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_a_broken_profile_is_passed_over(desk: Desk, quarters: Picture, mode: str) -> None:
    image = desk.image(quarters.convert(mode), Compress(quality=95), kind="jpeg", icc_profile=b"x" * 200, quality=95)
    assert_colour(image.getpixel((50, 30)), WHITE)


@pytest.mark.parametrize("kind", ["jpeg", "tiff"])
@pytest.mark.parametrize("operation", [Compress(quality=95), Resize(width=20)], ids=["decoded", "resized"])
def test_cmyk_comes_out_as_rgb_and_not_inverted(desk: Desk, kind: str, operation: Operation) -> None:
    image = Image.new("CMYK", (40, 40), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 20, 40))
    result = desk.image(image, operation, kind=kind)
    assert result.mode == "RGB"
    assert_colour(result.getpixel((1, 10)), BLACK, 60)
    assert_colour(result.getpixel((result.width - 2, 10)), WHITE)


@pytest.mark.parametrize("wanted", ["jpeg", "png", "webp", "avif", "tiff"])
def test_sixteen_bits_come_out_as_eight(desk: Desk, wanted: OutputFormat) -> None:
    ramp = Image.linear_gradient("L").resize((64, 64))
    deep = ramp.convert("I").point(lambda value: value * 257).convert("I;16")
    image = desk.image(deep, Convert(format=wanted))
    assert image.mode == ("RGB" if wanted in ("webp", "avif") else "L")
    assert difference(image, ramp) < 4


def test_transparency_becomes_the_background_in_a_jpeg(desk: Desk) -> None:
    image = desk.image(
        Image.new("RGBA", (40, 40), (0, 0, 255, 0)), Convert(format="jpeg", background="#00ff00"), Compress(quality=95)
    )
    assert image.mode == "RGB"
    assert_colour(image.getpixel((20, 20)), GREEN)


@pytest.mark.parametrize("wanted", ["png", "webp", "avif", "tiff"])
def test_transparency_stays_where_the_format_has_it(desk: Desk, wanted: OutputFormat) -> None:
    image = desk.image(Image.new("RGBA", (40, 40), (255, 0, 0, 128)), Resize(width=20), Convert(format=wanted))
    assert image.mode == "RGBA"
    pixel = image.getpixel((10, 10))
    assert isinstance(pixel, tuple)
    assert abs(pixel[3] - 128) <= 3
    assert_colour(pixel, RED)


# Promises ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", ["jpeg", "png", "webp", "avif", "tiff"])
def test_a_second_run_writes_the_same_objects(desk: Desk, photograph: Picture, wanted: OutputFormat) -> None:
    operations = (Resize(width=120), Convert(format=wanted), Compress(quality=60), Thumbnail(size=40))
    first = desk.run(photograph, *operations)
    objects = sorted(desk.directory.rglob("*"))
    assert desk.run(photograph, *operations) == first
    assert sorted(desk.directory.rglob("*")) == objects


def test_a_key_is_the_digest_of_what_it_names(desk: Desk, quarters: Picture) -> None:
    output = desk.run(quarters, Convert(format="jpeg")).outputs[0]
    digest = hashlib.sha256((desk.directory / output.key).read_bytes()).hexdigest()
    assert output.key == f"processed/{digest}.jpg"


def test_progress_is_told_once_per_operation(desk: Desk, quarters: Picture) -> None:
    desk.run(quarters, Crop(width=40, height=40), Thumbnail(size=10), Resize(width=20), Compress(quality=50))
    assert desk.progress == [
        (20, "crop", "40 x 40"),
        (40, "thumbnail", "40 x 40"),
        (60, "resize", "20 x 20"),
        (80, "compress", "20 x 20"),
    ]


def test_nothing_is_written_unless_every_operation_succeeds(desk: Desk, quarters: Picture) -> None:
    with pytest.raises(ImpossibleOperation):
        desk.run(quarters, Thumbnail(size=10), Crop(width=1000, height=1))
    assert [path.name for path in desk.directory.iterdir()] == ["source"]


def test_the_result_describes_the_source_too(desk: Desk, quarters: Picture) -> None:
    source = desk.run(quarters, Resize(width=10), kind="webp").source
    size = (desk.directory / "source").stat().st_size
    assert (source.key, source.format, source.width, source.height, source.bytes) == ("source", "webp", 60, 40, size)
