"""What ``make bench`` measures of each system in each round."""

from peers import System
from quantiles import percentile
from results import Round, Sizes
from rig import MB, Rig
from room import Room

WAIT = 0.005  #: Seconds.
HEAVY = 10_240  #: Bytes.


def measure(rig: Rig, system: System, number: int, sizes: Sizes) -> Round:
    """Send one by one and in bulk, let workers empty the queue, and send at an even pace; then the other jobs."""
    with Room.opened(rig, system, f"{system.name}-{number}") as room:
        sends = room.send("one_by_one", sizes.sends)
        rest = sizes.backlog - sizes.sends
        bulk = room.send("bulk", rest if system.pipelined else min(2 * sizes.sends, rest))
        if not system.pipelined and rest > 2 * sizes.sends:
            room.send("fill", rest - 2 * sizes.sends)
        room.expect(sizes.backlog)
        with room.worker() as worker:
            empty = worker.drain(sizes.backlog)
            memory = worker.memory_bytes()
            waits = worker.paced(sizes.paced)
        room.fill(sizes.waiting, seconds=WAIT)
        with room.worker() as worker:
            waiting = worker.drain(sizes.waiting)
        room.fill(sizes.heavy, size=HEAVY)
        with room.worker() as worker:
            heavy = worker.drain(sizes.heavy)
    return Round(
        sends=sends.per_second,
        bulk=bulk.per_second,
        empty=empty,
        waiting=waiting,
        heavy=heavy,
        memory_mb=memory / MB,
        p50_ms=1000 * percentile(waits, 50),
        p99_ms=1000 * percentile(waits, 99),
    )
