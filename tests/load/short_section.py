"""What ``make bench`` has measured, as sections of the page."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from costs import SHIPPED
from peers import JOBKIT, SYSTEMS
from rendered import counted, prose, ratios, spread, table
from results import Drain, Round, Short

Value = Callable[[Round], float]

_ROWS: Final[Sequence[tuple[str, Value]]] = (
    ("sends/s, one by one", lambda one: one.sends),
    ("sends/s, in bulk", lambda one: one.bulk),
    ("drain, jobs that do nothing, jobs/s", lambda one: one.empty.per_second),
    ("drain, jobs that wait 5 ms, jobs/s", lambda one: one.waiting.per_second),
    ("drain, jobs with 10 kB, jobs/s", lambda one: one.heavy.per_second),
    ("CPU per job that does nothing, ms", lambda one: one.empty.worker_ms),
    ("CPU per job that waits 5 ms, ms", lambda one: one.waiting.worker_ms),
    ("CPU per job with 10 kB, ms", lambda one: one.heavy.worker_ms),
    ("memory, MB", lambda one: one.memory_mb),
    ("latency, p50, ms", lambda one: one.p50_ms),
    ("latency, p99, ms", lambda one: one.p99_ms),
)

_SHARES: Final[Sequence[tuple[str, Value]]] = (
    ("cores busy, %", lambda one: 100 * one.empty.fullness),
    ("cores busy with other processes, %", lambda one: 100 * one.empty.others),
    ("CPU of the workers per job, ms", lambda one: one.empty.worker_ms),
    ("CPU of RabbitMQ per job, ms", lambda one: one.empty.broker_ms),
    ("CPU of Redis per job, ms", lambda one: one.empty.store_ms),
)


_IDLE: Final = 0.15  #: The benchmark itself uses less than this part of the cores, on a machine with two.


def warning(short: Short) -> str:
    """Return a paragraph if the machine had something else to do; otherwise nothing."""
    others = max(one.empty.others for rounds in short.systems.values() for one in rounds)
    if others <= _IDLE:
        return ""
    return prose(
        f"**The machine was not idle.** Other processes used up to {100 * others:.0f} % of its cores during a drain. "
        "Do not rely on these figures: run `make bench` again when nothing else runs."
    )


def short_section(short: Short) -> Iterator[str]:
    """Return the paragraphs and tables."""
    sizes = short.sizes
    yield "## Beside its peers"
    yield prose(
        f"{counted(sizes.rounds, 'round')}. The backlog holds {sizes.backlog:,} jobs that do nothing, "
        f"{sizes.waiting:,} that wait 5 ms, or {sizes.heavy:,} with 10 kB. {sizes.sends:,} jobs are sent one by one, "
        f"and {sizes.paced:,} at an even pace."
    )
    yield _systems(short, _ROWS)
    yield "The same as ratios: jobkit divided by the peer, in each round."
    yield _ratios(short)
    yield prose(
        "How full the cores were in the drain of jobs that do nothing, and what used them. Other processes are the "
        "benchmark itself, and all that had nothing to do with it."
    )
    yield _systems(short, _SHARES)
    yield "## What each guarantee costs"
    yield prose(
        f"jobkit's drain of {sizes.costs:,} jobs that do nothing, with one thing changed, in "
        f"{counted(sizes.cost_rounds, 'round')}. The cost of quorum queues is the difference between both columns of "
        "Dramatiq above. Spans go to a process on the same machine, which drops them."
    )
    yield _costs(short)
    yield "## E-mails"
    yield prose(
        f"The email service sends {sizes.mails:,} e-mails from a template to a mail server on the same machine. It has "
        "2 worker processes with 8 threads each. There is no peer to compare it with."
    )
    rows = ([each, spread(found)] for each, found in short.mails.items())
    yield table(["e-mails over one connection", "e-mails/s"], rows)


def _systems(short: Short, rows: Sequence[tuple[str, Value]]) -> str:
    def cells(value: Value) -> Iterator[str]:
        for system in SYSTEMS:
            yield spread([value(one) for one in short.systems[system.name]])

    return table(["", *(system.title for system in SYSTEMS)], ([title, *cells(value)] for title, value in rows))


def _ratios(short: Short) -> str:
    peers = [system for system in SYSTEMS if system is not JOBKIT]

    def cells(value: Value) -> Iterator[str]:
        for peer in peers:
            yield spread(ratios(map(value, short.systems[JOBKIT.name]), map(value, short.systems[peer.name])))

    return table(["", *(f"÷ {peer.title}" for peer in peers)], ([title, *cells(value)] for title, value in _ROWS))


def _costs(short: Short) -> str:
    shipped = short.costs[SHIPPED]

    def rates(drains: Sequence[Drain]) -> list[float]:
        return [drain.per_second for drain in drains]

    def times(drains: Sequence[Drain]) -> list[float]:
        return [drain.worker_ms for drain in drains]

    def cells(drains: Sequence[Drain]) -> Iterator[str]:
        yield spread(rates(drains))
        yield spread(ratios(rates(drains), rates(shipped)))
        yield spread(times(drains))
        yield spread(ratios(times(drains), times(shipped)))

    head = ["", "jobs/s", f"÷ {SHIPPED}", "CPU of the workers per job, ms", f"÷ {SHIPPED}"]
    return table(head, ([name, *cells(drains)] for name, drains in short.costs.items()))
