"""What ``make bench FULL=1`` measures: large backlogs, a large ``send_many``, and many delayed jobs."""

import time
from typing import Final

from peers import JOBKIT, System
from results import Bulk, Delayed, Drain
from rig import MB, Rig
from room import Room

_SETTLED: Final = 0.01  #: Growth in a `_PAUSE` below which a worker's memory counts as level.
_PAUSE: Final = 3.0  #: Seconds.
_PATIENCE: Final = 90.0  #: Seconds that a worker has to take the delayed jobs that it takes.


def backlog(rig: Rig, system: System, count: int) -> Drain:
    """Let a system's workers empty a queue of ``count`` jobs that do nothing."""
    with Room.opened(rig, system, f"{system.name}-{count}") as room:
        return _drain(room, count)


def _drain(room: Room, count: int) -> Drain:
    room.fill(count)
    with room.worker() as worker:
        return worker.drain(count)


def pair(rig: Rig, number: int, small: int, large: int) -> tuple[Drain, Drain, Bulk, float]:
    """Let jobkit's workers empty a small backlog, and right after it a large one, which ``send_many`` has sent.

    Returns:
        Both drains, the figures of the sending, and the store's memory for each job of the large one.
    """
    with Room.opened(rig, JOBKIT, f"pair-{number}") as room:
        first = _drain(room, small)
        sent = room.send("bulk", large)
        room.expect(large)
        before = rig.store_bytes()
        with room.worker() as worker:
            second = worker.drain(large)
            grown = rig.store_bytes() - before
    return first, second, Bulk(count=large, per_second=sent.per_second, peak_mb=sent.peak_bytes / MB), grown / large


def delayed(rig: Rig, system: System, count: int) -> Delayed:
    """Send jobs that are due in an hour to workers that have run a few, and wait until their memory is level."""
    with Room.opened(rig, system, f"{system.name}-delayed") as room:
        room.fill(100)
        with room.worker() as worker:
            worker.drain(100)
            before = worker.memory_bytes()
            room.send("delayed", count)
            after = worker.memory_bytes()
            deadline = time.monotonic() + _PATIENCE
            while time.monotonic() < deadline:
                time.sleep(_PAUSE)
                last, after = after, worker.memory_bytes()
                if abs(after - last) < _SETTLED * last:
                    break
    return Delayed(count=count, before_mb=before / MB, after_mb=after / MB)
