"""What the operations beside resize and crop make of the pixels; and the choice of a format."""

import threading
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image, ImageChops, ImageStat
from PIL.Image import Image as Picture

from images_service.adapters import open_resources
from images_service.adapters.formats import Encoding, quality_like_jpeg
from images_service.adapters.memory import Memory, needed
from images_service.adapters.pictures import Picture as Source
from images_service.errors import ImpossibleOperation, MissingSource, SourceTooLarge
from images_service.handlers import process_image
from images_service.settings import ImagesSettings
from jobkit.contracts.images import (
    Blur,
    Compress,
    Convert,
    Flip,
    Operation,
    OutputFormat,
    Pixelate,
    Place,
    ProcessedImage,
    ProcessImage,
    Resize,
    Rotate,
    Thumbnail,
    Watermark,
)
from jobkit.errors import Snooze

RED, WHITE = (255, 0, 0), (255, 255, 255)
Run = Callable[..., tuple[ProcessedImage, Picture]]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Process a PNG of this image; a logo lies in the storage, too."""
    Image.new("RGBA", (20, 10), (*RED, 128)).save(tmp_path / "logo.png")
    with open_resources(ImagesSettings(storage_url=str(tmp_path), max_pixels=100_000)) as resources:

        def process(source: Picture, *operations: Operation) -> tuple[ProcessedImage, Picture]:
            source.save(tmp_path / "source", "png")
            result = process_image(
                ProcessImage(source="source", operations=operations),
                resources.storage,
                max_pixels=resources.max_pixels,
                progress=lambda *_, **__: None,
                memory=resources.memory,
            )
            return result, Image.open(BytesIO((tmp_path / result.outputs[0].key).read_bytes()))

        yield process


@pytest.fixture
def ramp() -> Picture:
    """90 x 60 pixels, each of a colour of its own."""
    image = Image.new("RGB", (90, 60))
    image.putdata([(x * 2, y * 4, (x * y) % 256) for y in range(60) for x in range(90)])
    return image


def same(one: Picture, other: Picture) -> bool:
    return one.size == other.size and ImageChops.difference(one.convert("RGB"), other.convert("RGB")).getbbox() is None


@pytest.mark.parametrize(
    ("angle", "transposed"),
    [
        (90, Image.Transpose.ROTATE_270),
        (-90, Image.Transpose.ROTATE_90),
        (180, Image.Transpose.ROTATE_180),
        (270, Image.Transpose.ROTATE_90),
    ],
)
def test_a_right_angle_turns_clockwise_and_changes_no_pixel(
    run: Run, ramp: Picture, angle: float, transposed: Image.Transpose
) -> None:
    assert same(run(ramp, Rotate(angle=angle))[1], ramp.transpose(transposed))


def test_an_angle_of_nothing_changes_nothing(run: Run, ramp: Picture) -> None:
    assert same(run(ramp, Rotate(angle=0))[1], ramp)


def test_another_angle_shows_its_background_in_the_corners(run: Run) -> None:
    white = Image.new("RGB", (80, 40), WHITE)
    _, image = run(white, Rotate(angle=45, background="#ff0000"))
    assert image.size == pytest.approx((85, 85), abs=2)
    assert (image.getpixel((2, 2)), image.getpixel((42, 42))) == (RED, WHITE)
    _, image = run(white, Rotate(angle=-45))
    corner = image.getpixel((2, 2))
    assert image.mode == "RGBA"
    assert isinstance(corner, tuple)
    assert corner[3] == 0


def test_a_turned_image_counts_against_the_limit_of_pixels(run: Run) -> None:
    with pytest.raises(ImpossibleOperation, match="IMAGES_MAX_PIXELS allows 100000"):
        run(Image.new("RGB", (300, 300)), Rotate(angle=45))


@pytest.mark.parametrize(
    ("direction", "transposed"),
    [("horizontal", Image.Transpose.FLIP_LEFT_RIGHT), ("vertical", Image.Transpose.FLIP_TOP_BOTTOM)],
)
def test_a_flip_mirrors(run: Run, ramp: Picture, direction: str, transposed: Image.Transpose) -> None:
    flip = Flip.model_validate({"direction": direction})
    assert same(run(ramp, flip)[1], ramp.transpose(transposed))


@pytest.mark.parametrize(
    ("gravity", "box"),
    [
        ("south-east", (77, 47, 97, 57)),
        ("north-west", (3, 3, 23, 13)),
        ("centre", (40, 25, 60, 35)),
        ("north", (40, 3, 60, 13)),
    ],
)
def test_a_watermark_lies_where_it_should(run: Run, gravity: Place, box: tuple[int, int, int, int]) -> None:
    white = Image.new("RGB", (100, 60), WHITE)
    _, image = run(white, Watermark(key="logo.png", gravity=gravity, margin=3))
    assert ImageChops.difference(image, white).getbbox() == box
    assert image.getpixel((box[0] + 5, box[1] + 5)) == pytest.approx((255, 127, 127), abs=1)


def test_a_watermark_has_its_opacity_and_its_scale(run: Run) -> None:
    white = Image.new("RGB", (100, 60), WHITE)
    _, image = run(white, Watermark(key="logo.png", opacity=0.5, scale=0.5))
    assert ImageChops.difference(image, white).getbbox() == (50, 35, 100, 60)
    assert image.getpixel((75, 47)) == pytest.approx((255, 191, 191), abs=2)


def test_a_watermark_that_is_too_large_is_made_smaller(run: Run) -> None:
    _, image = run(Image.new("L", (10, 10), 255), Watermark(key="logo.png"))
    assert image.mode == "RGB"
    assert ImageChops.difference(image, Image.new("RGB", (10, 10), WHITE)).getbbox() == (0, 5, 10, 10)


def test_a_watermark_that_cannot_be_laid_says_why(run: Run, ramp: Picture) -> None:
    with pytest.raises(MissingSource, match=r"'none\.png'"):
        run(ramp, Watermark(key="none.png"))
    with pytest.raises(ImpossibleOperation, match="margin of 30 pixels leaves no room"):
        run(ramp, Watermark(key="logo.png", margin=30))


@pytest.mark.parametrize(
    "operation",
    [Blur(left=10, top=20, width=40, height=30, sigma=5), Pixelate(left=10, top=20, width=40, height=30, size=15)],
    ids=lambda operation: operation.kind,
)
def test_only_the_region_changes(run: Run, ramp: Picture, operation: Operation) -> None:
    _, image = run(ramp, operation)
    assert ImageChops.difference(image, ramp).getbbox() == (10, 20, 50, 50)


def test_blocks_have_the_mean_of_what_they_hide(run: Run, ramp: Picture) -> None:
    _, image = run(ramp, Pixelate(size=30))
    for left, top in ((0, 0), (30, 0), (60, 30)):
        block = (left, top, left + 30, top + 30)
        assert image.crop(block).getcolors() == [(900, image.getpixel((left, top)))]
        assert image.getpixel((left, top)) == pytest.approx(ImageStat.Stat(ramp.crop(block)).mean, abs=1)


@pytest.mark.parametrize("operation", [Blur(sigma=3), Pixelate(size=7), Rotate(angle=10), Resize(width=20)])
def test_the_colour_of_what_is_transparent_does_not_show(run: Run, operation: Operation) -> None:
    image = Image.new("RGBA", (40, 40), (0, 255, 0, 0))
    image.paste((*RED, 255), (0, 0, 20, 40))
    _, changed = run(image, operation)
    seen = [changed.getpixel((x, y)) for x in range(changed.width) for y in range(changed.height)]
    assert max(pixel[1] for pixel in seen if isinstance(pixel, tuple) and pixel[3] > 40) == 0


@pytest.mark.parametrize(
    "operation", [Blur(left=60, top=0, width=31, height=5), Pixelate(left=0, top=59, width=1, height=2)]
)
def test_a_region_outside_the_image_is_refused(run: Run, ramp: Picture, operation: Operation) -> None:
    with pytest.raises(ImpossibleOperation, match="is not inside the image of 90 x 60"):
        run(ramp, operation)


# The smallest format --------------------------------------------------------------------------------------------------


def test_auto_takes_the_smallest_of_the_allowed_formats(run: Run) -> None:
    photograph = Image.effect_mandelbrot((200, 150), (-2, -1.5, 1, 1.5), 90).convert("RGB")
    sizes = {
        form: run(photograph, Convert(format=form), Compress(quality=quality_like_jpeg(form, 80)))[0].outputs[0].bytes
        for form in ("jpeg", "webp", "avif", "png")
    }
    best = min(sizes, key=lambda form: sizes[form])
    output = run(photograph, Convert(format="auto"))[0].outputs[0]
    assert (output.format, output.bytes, output.key.rpartition(".")[2]) == (
        best,
        sizes[best],
        best.replace("jpeg", "jpg"),
    )
    assert run(photograph, Convert(format="auto", allowed=("png", "jpeg")))[0].outputs[0].format in ("jpeg", "png")


def test_auto_keeps_transparency(run: Run) -> None:
    clear = Image.new("RGBA", (60, 40), (*RED, 0))
    assert run(clear, Convert(format="auto", allowed=("jpeg", "webp")))[0].outputs[0].format == "webp"
    with pytest.raises(ImpossibleOperation, match=r"None of the allowed formats \(jpeg\).*transparent"):
        run(clear, Convert(format="auto", allowed=("jpeg",)))


def test_auto_passes_over_a_format_that_is_too_small(run: Run) -> None:
    assert run(Image.new("L", (20_000, 2)), Convert(format="auto"))[0].outputs[0].format in ("jpeg", "png")


@pytest.mark.parametrize("quality", [40, 60, 80, 90])
@pytest.mark.parametrize("form", ["webp", "avif"])
def test_qualities_are_alike(run: Run, quality: int, form: OutputFormat) -> None:
    rough = Image.effect_noise((60, 45), 90).resize((240, 180), Image.Resampling.BICUBIC).convert("RGB")

    def error(as_form: OutputFormat, of: int) -> float:
        _, image = run(rough, Convert(format=as_form), Compress(quality=of))
        return ImageStat.Stat(ImageChops.difference(image.convert("L"), rough.convert("L"))).rms[0]

    jpeg, other = error("jpeg", quality), error(form, quality_like_jpeg(form, quality))
    assert 0.5 < other / jpeg < 2


# The result, and memory -----------------------------------------------------------------------------------------------


def test_the_result_names_the_colour_that_most_of_the_image_has(run: Run) -> None:
    image = Image.new("RGB", (100, 60), (40, 80, 160))
    image.paste(WHITE, (0, 0, 100, 20))
    assert run(image, Thumbnail(size=8))[0].dominant_colour == "#2850a0"
    assert run(image.convert("L"), Thumbnail(size=8))[0].dominant_colour == "#4d4d4d"
    assert run(Image.new("RGBA", (10, 10), (*RED, 0)), Thumbnail(size=8))[0].dominant_colour is None


def test_a_job_waits_until_another_returns_its_memory() -> None:
    memory, order = Memory(100), []
    inside, release = threading.Event(), threading.Event()

    def first() -> None:
        with memory.reserved(60, "first"):
            inside.set()
            release.wait(10)
            order.append("first")

    def second() -> None:
        with memory.reserved(60, "second"):
            order.append("second")

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    assert inside.wait(10)
    threads[1].start()
    release.set()
    for thread in threads:
        thread.join(10)
    assert order == ["first", "second"]


def test_a_job_that_waits_for_memory_too_long_comes_back_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("images_service.adapters.memory.LONGEST_WAIT", 1)
    memory = Memory(100)
    with memory.reserved(60, "first"), pytest.raises(Snooze, match="'second' waits for memory"):  # noqa: SIM117
        with memory.reserved(60, "second"):
            pytest.fail("it was let in")
    with memory.reserved(100, "third"):
        pass


def test_a_watermark_counts_against_the_memory_before_anything_is_decoded(tmp_path: Path) -> None:
    Image.new("L", (10, 10)).save(tmp_path / "source.png")
    Image.new("L", (2000, 2000)).save(tmp_path / "logo.png")
    with open_resources(ImagesSettings(storage_url=str(tmp_path), memory_mb=64)) as resources:
        job = ProcessImage(source="source.png", operations=[Watermark(key="logo.png")])
        with pytest.raises(SourceTooLarge, match="IMAGES_MEMORY_MB allows 64"):
            process_image(
                job, resources.storage, max_pixels=10**7, progress=lambda *_, **__: None, memory=resources.memory
            )


def test_a_bitmap_is_decoded_only_when_its_memory_is_reserved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (2000, 2000)).save(tmp_path / "source.bmp")
    monkeypatch.setattr(Image.Image, "tobytes", lambda _: pytest.fail("it was decoded"))
    with open_resources(ImagesSettings(storage_url=str(tmp_path), memory_mb=64)) as resources:
        job = ProcessImage(source="source.bmp", operations=[Convert(format="png")])
        with pytest.raises(SourceTooLarge, match="IMAGES_MEMORY_MB allows 64"):
            process_image(
                job, resources.storage, max_pixels=10**7, progress=lambda *_, **__: None, memory=resources.memory
            )


def test_thumbnails_that_wait_to_be_written_count_against_the_memory() -> None:
    buffer = BytesIO()
    Image.new("L", (1000, 1000)).save(buffer, "png")
    picture = Source.open(buffer.getvalue(), "a.png", max_pixels=10**7)
    few, many = (
        needed(picture, 0, (Thumbnail(size=1000),) * count, [Encoding("png")] * (count + 1)) for count in (1, 19)
    )
    assert many - few >= 18 * 1000 * 1000 * 4 - (4 << 20)


def test_a_background_in_colour_shows_in_the_jpeg_of_a_grey_image(run: Run) -> None:
    clear = Image.new("LA", (16, 16), (255, 0))
    image = run(clear, Convert(format="jpeg", background="#ff0000"))[1]
    assert image.convert("RGB").getpixel((8, 8)) == pytest.approx((255, 0, 0), abs=3)
    assert run(clear, Convert(format="jpeg", background="#808080"))[1].mode == "L"
