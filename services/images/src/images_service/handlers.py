"""What the jobs do: plain functions, without queues."""

from dataclasses import dataclass, replace
from typing import Literal, Protocol

from images_service.adapters.formats import SUFFIXES, Encoding
from images_service.adapters.pictures import Picture
from images_service.adapters.storage import Storage
from jobkit.contracts.images import (
    Compress,
    Convert,
    Crop,
    ImageFile,
    Operation,
    OutputFile,
    ProcessedImage,
    ProcessImage,
    Resize,
    Thumbnail,
)


class Progress(Protocol):
    """Tells how far a job is, in percent, after which step."""

    def __call__(self, percent: float, step: str = "", note: str = "") -> None:
        """Never raises: a job does not fail because nobody heard how far it is."""
        ...


@dataclass(frozen=True)
class _Encoded:
    kind: Literal["image", "thumbnail"]
    encoding: Encoding
    width: int
    height: int
    data: bytes


def process_image(job: ProcessImage, storage: Storage, *, max_pixels: int, progress: Progress) -> ProcessedImage:
    """Apply the operations in order, then write the image and its thumbnails.

    Nothing is written unless every operation has succeeded, and what is written has content-derived keys: the same job
    run again rewrites the same objects. Progress is told once per operation; what remains then is writing.

    Raises:
        PermanentError: the source is missing, too large, of an unknown format or damaged, or an operation does not
            suit it (see ``errors``).
        StorageUnavailable: the storage did not answer or is full.
    """
    data = storage.read(job.source)
    picture = Picture.open(data, job.source, max_pixels=max_pixels)
    source = ImageFile(
        key=job.source, format=picture.format, width=picture.width, height=picture.height, bytes=len(data)
    )
    encoding = Encoding("png" if picture.format == "gif" else picture.format)
    thumbnails: list[_Encoded] = []
    for done, operation in enumerate(job.operations, start=1):
        if isinstance(operation, Thumbnail):
            thumbnails.append(_encoded("thumbnail", picture.thumbnail(operation.size), encoding))
        picture, encoding = _applied(operation, picture, encoding)
        note = f"{picture.width} x {picture.height}"
        progress(100 * done / (len(job.operations) + 1), step=operation.kind, note=note)
    image = _encoded("image", picture, encoding)
    return ProcessedImage(source=source, outputs=tuple(_written(output, storage) for output in (image, *thumbnails)))


def _applied(operation: Operation, picture: Picture, encoding: Encoding) -> tuple[Picture, Encoding]:
    match operation:
        case Resize():
            return picture.resize(operation), encoding
        case Crop():
            return picture.crop(operation), encoding
        case Compress(quality=quality):
            return picture, replace(encoding, quality=quality)
        case Convert(format=wanted, background=background):
            red, green, blue = bytes.fromhex(background.removeprefix("#"))
            return picture, replace(encoding, format=wanted, background=(red, green, blue))
        case Thumbnail():
            return picture, encoding


def _encoded(kind: Literal["image", "thumbnail"], picture: Picture, encoding: Encoding) -> _Encoded:
    return _Encoded(kind, encoding, picture.width, picture.height, picture.encode(encoding))


def _written(output: _Encoded, storage: Storage) -> OutputFile:
    return OutputFile(
        kind=output.kind,
        key=storage.add(output.data, SUFFIXES[output.encoding.format]),
        format=output.encoding.format,
        width=output.width,
        height=output.height,
        bytes=len(output.data),
    )
