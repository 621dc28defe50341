import json

import pytest
from pydantic import ValidationError

from jobkit.contracts.images import Compress, Convert, Crop, ProcessImage, Resize, Thumbnail

EVERY_OPERATION = (
    Crop(width=300, height=200, gravity="smart"),
    Thumbnail(size=64),
    Resize(width=100, height=100, fit="cover"),
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
        ({"kind": "convert", "format": "svg"}, "'jpeg', 'png', 'webp', 'avif' or 'tiff'"),
        ({"kind": "convert", "format": "png", "background": "red"}, "match pattern"),
        ({"kind": "thumbnail", "size": 8, "colour": "red"}, "Extra inputs are not permitted"),
        ({"kind": "rotate"}, "does not match any of the expected tags"),
    ],
)
def test_an_operation_that_makes_no_sense_is_refused_at_the_producer(
    operation: dict[str, object], complaint: str
) -> None:
    with pytest.raises(ValidationError, match=complaint):
        ProcessImage.model_validate({"source": "a.jpg", "operations": [operation]})
