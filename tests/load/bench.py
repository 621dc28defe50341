"""This project beside its peers: the same jobs, the same broker, the same run. Linux only.

    make bench                                        at most 8 minutes
    make bench FULL=1                                 backlogs up to a million, at most 75 minutes
    BENCH_BACKLOG=4000 BENCH_ROUNDS=1 make bench      a quick look

Both write their part of ``docs/reference/performance.md``, which says what is compared and how, and keep their figures
beside it. Absolute figures move from machine to machine and from hour to hour, so each round runs all systems in turn,
each round in another order, and only ratios within one run mean something.
"""

import os
import statistics
import sys
from pathlib import Path
from typing import Final

from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

HERE: Final = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "harness"))

import comparison
import costs
import large
import mails
from aims import aims
from machine import machine
from otlp_sink import otlp_sink
from peers import JOBKIT, SYSTEMS, rotated
from performance_page import page
from results import Bulk, Delayed, Drain, Full, Results, Round, Short, Sizes
from rig import Rig
from room import Room
from short_section import warning
from steps import Steps

DOCS: Final = HERE.parents[1] / "docs/reference"
PAGE, KEPT = DOCS / "performance.md", DOCS / "performance.json"

BACKLOG: Final = int(os.environ.get("BENCH_BACKLOG", "20000"))
ROUNDS: Final = int(os.environ.get("BENCH_ROUNDS", "3"))

#: Seconds that the rounds must fit into. With the start and the end of the nodes, that is 8 and 75 minutes.
SHORT_BUDGET, FULL_BUDGET = 460.0, 4300.0

PAIRS: Final = 5


def sizes() -> Sizes:
    """Return the sizes of the short run, in proportion to the backlog."""
    return Sizes(
        rounds=ROUNDS,
        backlog=BACKLOG,
        waiting=max(200, BACKLOG // 20),
        heavy=max(200, BACKLOG // 10),
        sends=max(100, BACKLOG // 20),
        paced=max(100, min(400, BACKLOG // 20)),
        costs=max(200, BACKLOG * 2 // 5),
        cost_rounds=1,
        mails=max(50, BACKLOG // 20),
    )


def short(console: Console) -> Short:
    """Measure what each guarantee costs, and e-mails; then all systems in turn, in as many rounds as fit."""
    wanted = sizes()
    total = ROUNDS * len(SYSTEMS) + wanted.cost_rounds * len(costs.VARIANTS) + len(mails.PER_CONNECTION)
    rounds: dict[str, list[Round]] = {system.name: [] for system in SYSTEMS}
    sent: dict[str, list[float]] = {}
    with _progress(console) as progress, Rig.private() as rig:
        steps = Steps(progress, total, SHORT_BUDGET)
        spent = _costs(rig, steps, wanted.costs, wanted.cost_rounds)
        for each in mails.PER_CONNECTION:
            steps.say(f"e-mails, {each} over one connection")
            sent[str(each)] = [mails.per_second(rig, f"email-{each}", wanted.mails, each)]
            steps.done()
        for number in steps.rounds("systems", ROUNDS):
            for system in rotated(number):
                steps.say(f"round {number + 1} of {ROUNDS}: {system.title}")
                rounds[system.name].append(comparison.measure(rig, system, number, wanted))
                steps.done()
        return Short(
            machine=machine(rig.rabbitmq, rig.redis),
            sizes=wanted.model_copy(update={"rounds": len(rounds[JOBKIT.name])}),
            systems=rounds,
            costs=spent,
            mails=sent,
        )


def _costs(rig: Rig, steps: Steps, count: int, rounds: int) -> dict[str, list[Drain]]:
    found: dict[str, list[Drain]] = {variant.name: [] for variant in costs.VARIANTS}
    with otlp_sink() as sink, Room.opened(rig, JOBKIT, "costs") as room:
        for _ in range(rounds):
            for variant in costs.VARIANTS:
                steps.say(f"costs: {variant.name}")
                found[variant.name].append(costs.drain(room, variant, count, sink))
                steps.done()
    return found


def full(console: Console) -> Full:
    """Measure the large sizes: 10,000, 100,000 and 1,000,000 jobs where the backlog of the short run has 20,000."""
    small, middle, largest = BACKLOG // 2, BACKLOG * 5, BACKLOG * 50
    queued: dict[str, dict[int, Drain]] = {}
    waiting: dict[str, Delayed] = {}
    pairs: list[tuple[Drain, Drain]] = []
    bulks: list[Bulk] = []
    stored: list[float] = []
    patient = [system for system in SYSTEMS if system.name != "classic"]  # delays are the same on both kinds of queue
    with _progress(console) as progress, Rig.private() as rig:
        steps = Steps(progress, 2 * len(SYSTEMS) + len(patient) + PAIRS, FULL_BUDGET)
        for system in SYSTEMS:
            for count in (small, middle):
                steps.say(f"backlog of {count:,}: {system.title}")
                queued.setdefault(system.name, {})[count] = large.backlog(rig, system, count)
                steps.done()
        for system in patient:
            steps.say(f"{middle:,} delayed jobs: {system.title}")
            waiting[system.name] = large.delayed(rig, system, middle)
            steps.done()
        for number in steps.rounds("pairs", PAIRS):
            steps.say(f"pair {number + 1} of {PAIRS}: backlogs of {small:,} and {largest:,}")
            first, second, bulk, store = large.pair(rig, number, small, largest)
            pairs.append((first, second))
            bulks.append(bulk)
            stored.append(store)
            steps.done()
        return Full(
            machine=machine(rig.rabbitmq, rig.redis),
            backlogs=queued,
            pairs=pairs,
            pair_sizes=(small, largest),
            store_bytes=statistics.median(stored),
            bulk=Bulk(
                count=largest,
                per_second=statistics.median(bulk.per_second for bulk in bulks),
                peak_mb=max(bulk.peak_mb for bulk in bulks),
            ),
            delayed=waiting,
        )


def _progress(console: Console) -> Progress:
    columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    return Progress(*columns, console=console, transient=True)


def main(options: list[str]) -> None:
    """Measure one part, keep its figures, and write the page."""
    if sys.platform != "linux":
        raise SystemExit("make bench reads the time and the memory of processes from /proc: run it on Linux")
    console = Console()
    try:
        known = Results.read(KEPT)  # before the work
    except ValidationError as error:
        raise SystemExit(f"{KEPT} was written by another version. Remove it. {error}") from None
    part = {"full": full(console)} if "--full" in options else {"short": short(console)}
    results = known.model_copy(update=part)
    results.write(KEPT)
    PAGE.write_text(page(results))
    if results.short and (text := warning(results.short)):
        print(f"{text}\n")  # noqa: T201  the result of the command, with the page
    print(aims(results))  # noqa: T201  the same
    print(f"written: {PAGE.relative_to(Path.cwd()) if PAGE.is_relative_to(Path.cwd()) else PAGE}")  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
