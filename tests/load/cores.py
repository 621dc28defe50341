"""How long the machine's processors have worked and waited, from ``/proc/stat``.

Linux alone has that: ``bench.py`` asks for ``sys.platform`` first.
"""

import os
from pathlib import Path
from typing import Final, NamedTuple

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_STAT: Final = Path("/proc/stat")
_IDLE, _IOWAIT, _STEAL = 3, 4, 7  #: Fields of a line, see proc(5). Guests' time is in the user's already.


class Cores(NamedTuple):
    """Seconds of all cores together, since the machine's start.

    Attributes:
        busy: In which they did something.
        all: In which they could have; what a hypervisor gave to others is not in it.
    """

    busy: float
    all: float


def cores(text: str | None = None) -> Cores:
    """Return the times of now, or those of a text in the form of ``/proc/stat``."""
    total = (_STAT.read_text() if text is None else text).splitlines()[0].split()
    if total[0] != "cpu":
        raise ValueError(f"/proc/stat begins with {total[0]!r} instead of 'cpu'")
    ticks = [int(value) for value in total[1:9]]
    could = sum(ticks) - ticks[_STEAL]
    return Cores((could - ticks[_IDLE] - ticks[_IOWAIT]) / _TICKS, could / _TICKS)
