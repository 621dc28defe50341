"""What the jobs do: plain functions, without queues."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from images_service.adapters.formats import SUFFIXES, Encoding, recognise
from images_service.adapters.memory import Memory, needed
from images_service.adapters.pictures import Picture
from images_service.adapters.storage import Storage
from jobkit.contracts.images import (
    Blur,
    Compress,
    Convert,
    Crop,
    Flip,
    Operation,
    OutputFile,
    OutputFormat,
    Pixelate,
    ProcessedImage,
    ProcessImage,
    Resize,
    Rotate,
    SourceFile,
    SourceFormat,
    Thumbnail,
    Watermark,
)

#: What a source becomes without a ``Convert``, where it is not its own format.
_BECOMES: dict[SourceFormat, OutputFormat] = {"bmp": "png", "heic": "jpeg"}


class Progress(Protocol):
    """Tells how far a job is, in percent, after which step."""

    def __call__(self, percent: float, step: str = "", note: str = "") -> None:
        """Never raises: a job does not fail because nobody heard how far it is."""
        ...


@dataclass(frozen=True)
class _Encoded:
    kind: Literal["image", "thumbnail"]
    format: OutputFormat
    width: int
    height: int
    frames: int
    data: bytes


def process_image(
    job: ProcessImage, storage: Storage, *, max_pixels: int, progress: Progress, memory: Memory | None = None
) -> ProcessedImage:
    """Apply the operations in order, then write the image and its thumbnails.

    Nothing is written unless every operation has succeeded, and what is written has content-derived keys: the same job
    run again rewrites the same objects. Progress is told once per operation; what remains then is writing.

    Args:
        job: What is asked for.
        storage: Where the source is, and the outputs go.
        max_pixels: Most pixels of the source or of a result.
        progress: Told after each operation.
        memory: What all jobs of this process share; None for no bound.

    Raises:
        PermanentError: the source is missing, too large, of an unknown format or damaged, or an operation does not
            suit it (see ``errors``).
        StorageRefused: the storage refused access to one key.
        StorageUnavailable: the storage did not answer or is full.
        Snooze: other jobs hold the memory that this one needs.
    """
    data = storage.read(job.source)
    encodings = _encodings(job, recognise(data, job.source))
    picture = Picture.open(
        data,
        job.source,
        max_pixels=max_pixels,
        accept_damage=job.damaged == "accept",
        page=job.page,
        all_frames=job.animation == "keep" and _may_animate(job, encodings),
        keep_profile=job.keep_profile,
    )
    if picture.format == "gif" and picture.frames == 1:
        encodings = [replace(each, format="png") if each.format == "gif" else each for each in encodings]
    keys = {operation.key for operation in job.operations if isinstance(operation, Watermark)}
    files = {key: storage.read(key) for key in sorted(keys)}
    marks = {key: Picture.open(file, key, max_pixels=max_pixels) for key, file in files.items()}
    size = len(data) + sum(map(len, files.values()))
    with (memory or Memory()).reserved(needed(picture, size, job.operations, encodings, marks), job.source):
        image, outputs = _processed(job, picture, encodings, marks, progress)
        source = SourceFile(
            key=job.source,
            format=picture.format,
            width=picture.width,
            height=picture.height,
            bytes=len(data),
            frames=picture.source.frames,
            pages=picture.source.pages,
            page=picture.source.page,
            damaged=picture.source.damaged,
        )
        return ProcessedImage(
            source=source,
            outputs=tuple(_written(output, storage) for output in outputs),
            dominant_colour=image.dominant_colour(),
        )


def _processed(
    job: ProcessImage,
    picture: Picture,
    encodings: list[Encoding],
    marks: Mapping[str, Picture],
    progress: Progress,
) -> tuple[Picture, list[_Encoded]]:
    thumbnails: list[_Encoded] = []
    for done, (operation, encoding) in enumerate(zip(job.operations, encodings[1:], strict=True), start=1):
        if isinstance(operation, Thumbnail):
            thumbnails.append(_encoded("thumbnail", picture.thumbnail(operation.size), encoding))
        picture = _applied(operation, picture, marks)
        note = f"{picture.width} x {picture.height}"
        progress(100 * done / (len(job.operations) + 1), step=operation.kind, note=note)
    return picture, [_encoded("image", picture, encodings[-1]), *thumbnails]


def _encodings(job: ProcessImage, found: SourceFormat) -> list[Encoding]:
    """How the image would be written before the first operation, and after each."""
    form: OutputFormat = _BECOMES[found] if found == "bmp" or found == "heic" else found
    encoding = Encoding(form, keep_profile=job.keep_profile, keep_metadata=job.keep_metadata)
    encodings = [encoding]
    for operation in job.operations:
        match operation:
            case Compress(quality=quality):
                encoding = replace(encoding, quality=quality)
            case Convert(format=wanted, background=background, allowed=allowed):
                red, green, blue = bytes.fromhex(background.removeprefix("#"))
                encoding = replace(encoding, format=wanted, background=(red, green, blue), allowed=allowed)
            case _:
                pass
        encodings.append(encoding)
    return encodings


def _may_animate(job: ProcessImage, encodings: list[Encoding]) -> bool:
    """Whether any output can hold an animation: if none can, one frame is enough to read."""
    written = [
        encoding
        for operation, encoding in zip(job.operations, encodings[1:], strict=True)
        if isinstance(operation, Thumbnail)
    ]
    return any(each.may_animate for each in (*written, encodings[-1]))


def _applied(operation: Operation, picture: Picture, marks: Mapping[str, Picture]) -> Picture:
    match operation:
        case Resize():
            return picture.resize(operation)
        case Crop():
            return picture.crop(operation)
        case Rotate():
            return picture.rotate(operation)
        case Flip():
            return picture.flip(operation)
        case Watermark(key=key):
            return picture.watermark(operation, marks[key])
        case Blur():
            return picture.blur(operation)
        case Pixelate():
            return picture.pixelate(operation)
        case Compress() | Convert() | Thumbnail():
            return picture


def _encoded(kind: Literal["image", "thumbnail"], picture: Picture, encoding: Encoding) -> _Encoded:
    data, form = picture.encode(encoding)
    return _Encoded(kind, form, picture.width, picture.height, picture.frames_in(form, data), data)


def _written(output: _Encoded, storage: Storage) -> OutputFile:
    return OutputFile(
        kind=output.kind,
        key=storage.add(output.data, SUFFIXES[output.format]),
        format=output.format,
        width=output.width,
        height=output.height,
        bytes=len(output.data),
        frames=output.frames,
    )
