"""How large a process is, and what it holds open: from proc(5) on Linux, elsewhere from ps(1) and lsof(8)."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import process_table


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
    if sys.platform != "linux":
        return _ask_ps(pid)
    folder = Path(f"/proc/{pid}")
    rows = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    if "VmRSS" not in rows:  # it has been killed, and its parent has not asked for its exit status yet
        raise ProcessLookupError(f"process {pid} has ended")
    resident, peak = (int(rows[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
    return Vitals(pid, resident, peak, int(rows["Threads"]), len(list((folder / "fd").iterdir())))


def descendants(pid: int) -> Iterator[tuple[int, str]]:
    """All processes below one, each before its own, with their command lines."""
    for child in process_table.children(pid):
        yield child, process_table.command(child)
        yield from descendants(child)


def _ask_ps(pid: int) -> Vitals:
    """The peak is not known to ps, so it is what is resident now."""
    resident = _lines("ps", "-o", "rss=", "-p", str(pid))
    if not resident:
        raise ProcessLookupError(f"process {pid} has ended")
    size = int(resident[0]) / 1024
    threads, files = _lines("ps", "-M", "-p", str(pid)), _lines("lsof", "-p", str(pid))
    return Vitals(pid, size, size, len(threads) - 1, len(files) - 1)


def _lines(*command: str) -> list[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30).stdout.splitlines()
