"""The photographs: two that ship inside scikit-learn, resized, cropped, converted, with thumbnails."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from board import Board
from PIL import Image
from stage import Finding

from jobkit.contracts.images import (
    Compress,
    Convert,
    Crop,
    OutputFile,
    ProcessedImage,
    ProcessImage,
    Resize,
    Thumbnail,
)


@dataclass(frozen=True)
class Task:
    """What is asked of a photograph (640 x 427 pixels), and what must come out: format, width and height."""

    photograph: str
    title: str
    job: ProcessImage
    image: tuple[str, int, int]
    thumbnail: tuple[str, int, int]


TASKS = (
    Task(
        "china.jpg",
        "china.jpg → 480 wide, WebP, thumbnail",
        ProcessImage(
            source="photographs/china.jpg",
            operations=(Resize(width=480), Convert(format="webp"), Compress(quality=80), Thumbnail(size=128)),
        ),
        image=("WEBP", 480, 320),
        thumbnail=("WEBP", 128, 85),
    ),
    Task(
        "flower.jpg",
        "flower.jpg → 400 square, thumbnail",
        ProcessImage(
            source="photographs/flower.jpg",
            operations=(Crop(width=400, height=400, gravity="smart"), Compress(quality=75), Thumbnail(size=96)),
        ),
        image=("JPEG", 400, 400),
        thumbnail=("JPEG", 96, 96),
    ),
)


class Pictures:
    """The photographs.

    Args:
        folder: The images service's storage.
    """

    title = "Images"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processed: dict[str, ProcessedImage] = {}

    @property
    def place(self) -> Path:
        """The storage."""
        return self._folder

    def prepare(self) -> None:
        """Upload the photographs, which is to copy them."""
        for task in TASKS:
            target = self._folder / task.job.source
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((files("sklearn.datasets.images") / task.photograph).read_bytes())

    def run(self, board: Board) -> None:
        """Send both, then wait for both."""
        sent = [(task, board.send(task.title, task.job)) for task in TASKS]
        for task, entry in sent:
            self._processed[task.photograph] = ProcessedImage.model_validate_json(board.done(entry).result)

    def headline(self) -> str:
        """Sizes before and after."""
        return ", ".join(
            f"{name} {_kib(done.source.bytes)} → {_kib(done.outputs[0].bytes)}"
            for name, done in self._processed.items()
        )

    def findings(self) -> Iterator[Finding]:
        """Open what was written with Pillow, which shares no code with libvips."""
        for task in TASKS:
            done = self._processed[task.photograph]
            source = self._opened(done.source.key)
            for output, expected in zip(done.outputs, (task.image, task.thumbnail), strict=True):
                found, size = self._opened(output.key), self._bytes(output)
                good = found == expected and size == output.bytes
                yield Finding(
                    f"{task.photograph} {_shape(source)} {_kib(done.source.bytes)} → "
                    f"{output.kind} {_shape(found)} {_kib(size)}",
                    good and size < done.source.bytes,
                )

    def _opened(self, key: str) -> tuple[str, int, int]:
        with Image.open(self._folder / key) as image:
            image.load()  # every pixel, so that a file that was cut short does not pass
            return image.format or "", image.width, image.height

    def _bytes(self, output: OutputFile) -> int:
        return (self._folder / output.key).stat().st_size


def _shape(found: tuple[str, int, int]) -> str:
    return f"{found[0]} {found[1]} x {found[2]}"


def _kib(size: int) -> str:
    return f"{size / 1024:.1f} KiB"
