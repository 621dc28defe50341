"""The memory of a worker process stays below what its settings promise, whatever its threads do at a time."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from sizes import size

from images_service.adapters.formats import Encoding
from images_service.adapters.memory import Memory, needed
from images_service.adapters.pictures import Picture
from images_service.errors import SourceTooLarge
from jobkit.contracts.images import Convert, OutputFormat

SCRIPT = Path(__file__).parents[2] / "harness/images_at_once.py"
EDGE = size(1000, 5000)  #: 5000 x 5000 is the largest image that the settings of compose allow.
THREADS = 4

#: MiB that the code of libvips and the heaps of four threads take beside the pixels, however large these are.
BESIDE = 70


def noise(path: Path, mode: str) -> None:
    """Write noise, of which all encoders need the most."""
    small = Image.frombytes(mode, (500, 500), random.Random(1).randbytes(250_000 * len(mode)))
    small.resize((EDGE, EDGE), Image.Resampling.BILINEAR).save(path, "png", compress_level=6)


def measured(folder: Path, memory_mb: int, form: OutputFormat, sources: list[str]) -> float:
    """Return the MiB that processing these sources took beside the process itself."""
    command = [sys.executable, str(SCRIPT), str(folder), str(memory_mb), str(THREADS), form, *sources]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=size(60, 900))
    figures = json.loads(ran.stdout)
    return float(figures["most"] - figures["before"])


@pytest.mark.timeout(size(120, 1000))
@pytest.mark.prove("memory of four images at a time", size=f"{EDGE} x {EDGE} pixels with transparency, 1,280 MiB")
def test_the_jobs_of_a_process_take_no_more_memory_than_the_settings_say(tmp_path: Path) -> None:
    noise(tmp_path / "source.png", "RGBA")
    allowed, waiting = size(160, 1280), 3
    files = waiting * (tmp_path / "source.png").stat().st_size >> 20
    assert measured(tmp_path, allowed, "webp", ["source.png"] * (waiting + 1)) < allowed + files + BESIDE


@pytest.mark.parametrize(("mode", "form"), [("RGB", "png"), ("RGB", "gif"), ("RGBA", "webp"), ("RGBA", "avif")])
def test_a_job_takes_no_more_memory_than_is_reserved_for_it(tmp_path: Path, mode: str, form: OutputFormat) -> None:
    noise(tmp_path / "source.png", mode)
    data = (tmp_path / "source.png").read_bytes()
    picture = Picture.open(data, "source.png", max_pixels=EDGE * EDGE)
    reserved = needed(picture, len(data), (Convert(format=form),), [Encoding("png"), Encoding(form)]) >> 20
    assert measured(tmp_path, 4000, form, ["source.png"]) < reserved + 10


def test_a_job_that_needs_more_than_there_is_names_the_setting() -> None:
    with (
        pytest.raises(SourceTooLarge, match=r"'a\.png' takes up to 65 MiB .* IMAGES_MEMORY_MB allows 64"),
        Memory(64 << 20).reserved(65 << 20, "a.png"),
    ):
        pytest.fail("it was let in")
