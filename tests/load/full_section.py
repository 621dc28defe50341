"""What ``make bench FULL=1`` has measured, as sections of the page."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from peers import SYSTEMS
from rendered import counted, number, prose, ratios, spread, table
from results import Drain, Full

_PAIR_ROWS: Final[Sequence[tuple[str, Callable[[Drain], float]]]] = (
    ("drain, jobs/s", lambda drain: drain.per_second),
    ("CPU of the workers per job, ms", lambda drain: drain.worker_ms),
    ("cores busy, %", lambda drain: 100 * drain.fullness),
)


def full_section(full: Full) -> Iterator[str]:
    """Return the paragraphs and tables."""
    yield "## Large backlogs"
    yield "Jobs that do nothing, once for each system: the drain in jobs/s, and the CPU of the workers per job in ms."
    yield _backlogs(full)
    small, largest = full.pair_sizes
    yield prose(
        f"jobkit alone, {counted(len(full.pairs), 'pair')} of runs: a backlog of {small:,}, then one of {largest:,}. "
        f"Redis then uses {number(full.store_bytes)} bytes for each done job."
    )
    yield _pairs(full)
    yield "## Large sends"
    bulk = full.bulk
    yield prose(
        f"`send_many` of {bulk.count:,} jobs sends {number(bulk.per_second)} jobs/s (median of "
        f"{counted(len(full.pairs), 'run')}). The sending process uses {number(bulk.peak_mb)} MB of memory at most."
    )
    yield "## Delayed jobs"
    yield "Memory of the workers (PSS), in MB, before and after jobs are sent that are due in an hour:"
    yield _delayed(full)


def _backlogs(full: Full) -> str:
    sizes = sorted({size for drains in full.backlogs.values() for size in drains})

    def cells(drains: dict[int, Drain]) -> Iterator[str]:
        for size in sizes:
            yield number(drains[size].per_second)
            yield number(drains[size].worker_ms)

    head = ["", *(f"{size:,}: {unit}" for size in sizes for unit in ("jobs/s", "ms"))]
    return table(head, ([system.title, *cells(full.backlogs[system.name])] for system in SYSTEMS))


def _pairs(full: Full) -> str:
    def cells(value: Callable[[Drain], float]) -> Iterator[str]:
        first, second = [value(pair[0]) for pair in full.pairs], [value(pair[1]) for pair in full.pairs]
        yield spread(first)
        yield spread(second)
        yield spread(ratios(second, first))

    head = ["", *(f"{size:,}" for size in full.pair_sizes), "ratio"]
    return table(head, ([title, *cells(value)] for title, value in _PAIR_ROWS))


def _delayed(full: Full) -> str:
    measured = [(system.title, full.delayed[system.name]) for system in SYSTEMS if system.name in full.delayed]
    rows = ([title, f"{one.count:,}", number(one.before_mb), number(one.after_mb)] for title, one in measured)
    return table(["", "jobs", "before", "after"], rows)
