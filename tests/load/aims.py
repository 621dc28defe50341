"""What jobkit should reach beside its peers, and what it has reached."""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from peers import CELERY, JOBKIT, QUORUM, System
from rendered import number, ratios, table
from results import Full, Results, Round, Short


@dataclass(frozen=True)
class Aim:
    """One of them.

    Attributes:
        what: The measure, with its unit.
        bound: At least this much, or at most.
        least: Whether it is the least.
        reached: What was measured.
    """

    what: str
    bound: float
    least: bool
    reached: float

    @property
    def met(self) -> bool:
        """Whether it was reached."""
        return self.reached >= self.bound if self.least else self.reached <= self.bound

    @property
    def row(self) -> list[str]:
        """Its line of the table."""
        bound = f"{'at least' if self.least else 'at most'} {self.bound:g}"
        return [self.what, bound, number(self.reached), "yes" if self.met else "no"]


def aims(results: Results) -> str:
    """Return a table of the aims whose part of the benchmark has run."""
    measured = [*(_short(results.short) if results.short else ()), *(_full(results.full) if results.full else ())]
    return table(["jobkit", "aim", "reached", "met"], (aim.row for aim in measured))


def _short(short: Short) -> Iterator[Aim]:
    ours = short.systems[JOBKIT.name]

    def beside(peer: System, what: str, value: Callable[[Round], float], *, least: float = 0, most: float = 0) -> Aim:
        ratio = statistics.median(ratios(map(value, ours), map(value, short.systems[peer.name])))
        return Aim(f"{what} ÷ {peer.title}", least or most, bool(least), ratio)

    yield beside(QUORUM, "drain, required:", lambda one: one.empty.per_second, least=0.7)
    yield beside(QUORUM, "drain", lambda one: one.empty.per_second, least=1)
    yield beside(CELERY, "drain", lambda one: one.empty.per_second, least=2)
    yield Aim("CPU of the workers per job, ms", 0.25, False, statistics.median(one.empty.worker_ms for one in ours))
    yield beside(QUORUM, "sends, one by one", lambda one: one.sends, least=1.2)
    yield beside(QUORUM, "sends, in bulk", lambda one: one.bulk, least=14)
    yield beside(CELERY, "sends, in bulk", lambda one: one.bulk, least=20)
    yield beside(QUORUM, "latency, p50", lambda one: one.p50_ms, most=1.25)
    yield beside(QUORUM, "latency, p99", lambda one: one.p99_ms, most=1.5)
    yield beside(QUORUM, "memory of the workers", lambda one: one.memory_mb, most=2)
    yield Aim("memory of the workers, MB", 80, False, statistics.median(one.memory_mb for one in ours))


def _full(full: Full) -> Iterator[Aim]:
    changes = [second.worker_ms / first.worker_ms - 1 for first, second in full.pairs]
    change = 100 * abs(statistics.median(changes))
    small, largest = full.pair_sizes
    yield Aim(f"change of the CPU per job from a backlog of {small:,} to {largest:,}, %", 10, False, change)
    yield Aim(f"memory of `send_many` of {full.bulk.count:,} jobs, MB", 150, False, full.bulk.peak_mb)
    ours = full.delayed[JOBKIT.name]
    growth = 100 * (ours.after_mb / ours.before_mb - 1)  # memory that is level still changes by a few pages
    yield Aim(f"growth of the workers' memory by {ours.count:,} delayed jobs, %", 5, False, growth)
    yield Aim("memory of Redis per done job, bytes", 120, False, full.store_bytes)
