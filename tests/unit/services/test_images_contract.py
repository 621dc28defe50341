import json

import pytest
from pydantic import ValidationError

from jobkit.contracts.images import (
    Blur,
    Compress,
    Convert,
    Crop,
    Flip,
    Pixelate,
    ProcessedImage,
    ProcessImage,
    Resize,
    Rotate,
    Thumbnail,
    Watermark,
)

EVERY_OPERATION = (
    Crop(width=300, height=200, gravity="smart"),
    Thumbnail(size=64),
    Resize(width=100, height=100, fit="cover", enlarge=True),
    Rotate(angle=-90, background="#000000"),
    Flip(direction="vertical"),
    Watermark(key="logo.png", gravity="north", opacity=0.5, scale=0.2, margin=4),
    Blur(left=1, top=2, width=3, height=4, sigma=2),
    Pixelate(size=8),
    Convert(format="auto", allowed=("webp", "jpeg")),
    Convert(format="webp", background="#102030"),
    Compress(quality=70),
)


def test_a_job_goes_to_the_images_queue() -> None:
    assert (ProcessImage.queue, ProcessImage.actor) == ("images", "process_image")


def test_every_operation_survives_the_wire() -> None:
    job = ProcessImage(source="photos/cat.jpg", operations=EVERY_OPERATION)
    assert ProcessImage.model_validate_json(job.model_dump_json()) == job


def test_operations_are_told_apart_by_their_kind() -> None:
    payload = {"source": "a.png", "operations": [{"kind": "thumbnail", "size": 8}, {"kind": "compress", "quality": 1}]}
    job = ProcessImage.model_validate_json(json.dumps(payload))
    assert job.operations == (Thumbnail(size=8), Compress(quality=1))


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/etc/passwd",
        "../secret.jpg",
        "a/../../b.jpg",
        "./a.jpg",
        "a//b.jpg",
        "a/",
        "a\\b.jpg",
        "a\x00.jpg",
        "a\n.jpg",
    ],
)
def test_a_source_outside_the_storage_is_refused_at_the_producer(key: str) -> None:
    with pytest.raises(ValidationError, match="a key"):
        ProcessImage(source=key, operations=[Thumbnail(size=8)])


def test_a_key_is_measured_in_bytes() -> None:
    ProcessImage(source="é" * 512, operations=[Thumbnail(size=8)])
    with pytest.raises(ValidationError, match="at most 1024 bytes"):
        ProcessImage(source="é" * 513, operations=[Thumbnail(size=8)])


@pytest.mark.parametrize("count", [0, 21])
def test_a_job_has_one_to_twenty_operations(count: int) -> None:
    with pytest.raises(ValidationError, match="operations"):
        ProcessImage(source="a.jpg", operations=[Thumbnail(size=8)] * count)


@pytest.mark.parametrize(
    ("operation", "complaint"),
    [
        ({"kind": "resize"}, "needs a width, a height or both"),
        ({"kind": "resize", "width": 10, "fit": "cover"}, "needs both a width and a height"),
        ({"kind": "resize", "width": 0}, "greater than or equal to 1"),
        ({"kind": "resize", "width": 65_501}, "less than or equal to 65500"),
        ({"kind": "crop", "width": 10, "height": 10, "left": 1}, "left and top together"),
        ({"kind": "crop", "width": 10, "height": 10, "left": 1, "top": 1, "gravity": "north"}, "not by both"),
        ({"kind": "compress", "quality": 101}, "less than or equal to 100"),
        ({"kind": "convert", "format": "svg"}, "'jpeg', 'png', 'webp', 'avif', 'tiff' or 'gif'"),
        ({"kind": "convert", "format": "png", "background": "red"}, "match pattern"),
        ({"kind": "thumbnail", "size": 8, "colour": "red"}, "Extra inputs are not permitted"),
        ({"kind": "sharpen"}, "does not match any of the expected tags"),
        ({"kind": "rotate", "angle": 360}, "less than 360"),
        ({"kind": "watermark", "key": "../logo.png"}, "a key is relative"),
        ({"kind": "watermark", "key": "logo.png", "opacity": 0}, "greater than 0"),
        ({"kind": "blur", "left": 1, "top": 1, "width": 10}, "left, top, width and height together"),
        ({"kind": "pixelate", "size": 1}, "greater than or equal to 2"),
        ({"kind": "convert", "format": "auto", "allowed": []}, "at least 1 item"),
    ],
)
def test_an_operation_that_makes_no_sense_is_refused_at_the_producer(
    operation: dict[str, object], complaint: str
) -> None:
    with pytest.raises(ValidationError, match=complaint):
        ProcessImage.model_validate({"source": "a.jpg", "operations": [operation]})


def test_a_job_that_waits_since_the_first_version_is_read_with_the_defaults() -> None:
    job = ProcessImage.model_validate_json('{"source": "a.jpg", "operations": [{"kind": "resize", "width": 8}]}')
    assert (job.damaged, job.page, job.animation, job.keep_profile, job.keep_metadata) == (
        "refuse",
        None,
        "keep",
        False,
        False,
    )


def test_a_result_of_the_first_version_can_still_be_read() -> None:
    file = {"key": "a.jpg", "format": "jpeg", "width": 8, "height": 6, "bytes": 100}
    result = ProcessedImage.model_validate({"source": file, "outputs": [{**file, "kind": "image"}]})
    assert (result.source.frames, result.source.damaged, result.outputs[0].frames) == (1, False, 1)
    assert result.dominant_colour is None
