"""The job of the benchmark, the same for every system."""

import os
import struct
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple, Protocol, Self

_LINE: Final = struct.Struct("dd")
LINE_BYTES: Final = _LINE.size

#: The variable with the file that the jobs write to.
FILE: Final = "BENCH_LINES"

_file: int | None = None


class Load(NamedTuple):
    """The arguments of one job.

    Attributes:
        sent: When it was sent, in seconds since the epoch.
        seconds: How long it waits.
        data: What it carries.
    """

    sent: float
    seconds: float = 0.0
    data: str = ""


class Sender(Protocol):
    """How one system sends, in its own best way. ``Sender(confirmed=False)`` may leave out the broker's confirms."""

    def send(self, load: Load) -> None:
        """Send one job, and return once the broker has confirmed it."""

    def send_many(self, loads: Iterable[Load], delay: int = 0) -> None:
        """Send many as fast as the system can, to run after ``delay`` seconds."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def work(sent: float, seconds: float) -> None:
    """Write down the start of a job, then wait."""
    started(sent)
    if seconds:
        time.sleep(seconds)


def started(sent: float) -> None:
    """Append when a job was sent and when it started, in one write: threads and processes do not mix theirs."""
    global _file  # one descriptor per process, opened by its first job
    if _file is None:
        _file = os.open(os.environ[FILE], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(_file, _LINE.pack(sent, time.time()))


def lines(file: Path) -> list[tuple[float, float]]:
    """Return when each job was sent and when it started."""
    return list(_LINE.iter_unpack(file.read_bytes()))
