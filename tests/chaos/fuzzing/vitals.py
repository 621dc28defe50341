"""How large a process is, and what it holds open, as proc(5) tells it."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Vitals:
    """One look at one process.

    Attributes:
        resident: MiB of memory.
        peak: The most that it ever was, in MiB.
    """

    pid: int
    resident: float
    peak: float
    threads: int
    files: int


def look_at(pid: int) -> Vitals:
    """Raises ``OSError`` if the process is gone."""
    folder = Path(f"/proc/{pid}")
    rows = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    resident, peak = (int(rows[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
    return Vitals(pid, resident, peak, int(rows["Threads"]), len(list((folder / "fd").iterdir())))


def descendants(pid: int) -> Iterator[tuple[int, str]]:
    """All processes below one, each before its own, with their command lines."""
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # it has ended meanwhile
            for child in map(int, file.read_text().split()):
                command = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                yield child, command
                yield from descendants(child)
