"""What a process and all that it has started use, from proc(5): time on the processors, and memory.

Linux only.

Linux alone has that: ``bench.py`` asks for ``sys.platform`` first.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from process_table import descendants

_TICKS: Final = os.sysconf("SC_CLK_TCK")  #: Per second; the unit of times in ``stat``.
_KB: Final = 1024


class ProcessTree:
    """A process with its descendants.

    Args:
        pid: The process at the top.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._seconds: dict[int, float] = {}
        self.refresh()

    @property
    def pids(self) -> list[int]:
        """All processes that were seen, those that have ended among them."""
        return list(self._seconds)

    def refresh(self) -> None:
        """Look for processes that have started since. It reads a file per thread, so it is not done at each look."""
        for pid in (self._pid, *descendants(self._pid)):
            self._seconds.setdefault(pid, 0.0)

    def cpu_seconds(self) -> float:
        """Return the time on the processors so far, that of processes which have ended included."""
        for pid in self._seconds:
            with suppress(OSError):  # it has ended: what it had used at the last look stays
                self._seconds[pid] = _cpu_seconds(pid)
        return sum(self._seconds.values())

    def pss_bytes(self) -> int:
        """Return the proportional set size: a page that n processes share counts as an n-th in each."""
        self.refresh()
        return sum(_pss_bytes(self._seconds))


def _cpu_seconds(pid: int) -> float:
    # The second field, the name in parentheses, may hold anything. utime and stime are the fields 14 and 15.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _pss_bytes(pids: Iterable[int]) -> Iterable[int]:
    for pid in pids:
        with suppress(OSError):  # it has ended
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    yield int(line.split()[1]) * _KB
