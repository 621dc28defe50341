"""This project beside bare Dramatiq and Celery under faults: the same jobs, the same broker, the same blows.

    make chaos                                            every fault and system, 2,000 jobs each; some 40 minutes
    CHAOS_FAULTS=kill,restart CHAOS_SYSTEMS=jobkit make chaos
    CHAOS_JOBS=200 make chaos                             a quick look
    CHAOS_WRITE=1 make chaos                              also writes docs/reference/faults.md

The clock's fault needs libfaketime, which is installed if that is allowed; otherwise the fault is left out, and named.

The parts are in ``suite``: the systems, the faults, a run, and how its jobs are counted. The exit status is 1 if jobkit
lost a job, gave one up or did one twice, except where a SIGKILL fell between a job's effect and its record.
"""

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "suite"), str(HERE.parent / "harness")]

from clock import Clock
from cluster import Cluster
from faults import FAULTS, Fault
from report import Row, line, page, show
from rich.console import Console
from run import Nodes, Run
from systems import SYSTEMS, System

from local_stack import packages
from local_stack.errors import MissingPackages
from local_stack.rabbitmq import RabbitMQ
from local_stack.redis import Redis

JOBS = int(os.environ.get("CHAOS_JOBS", "2000"))
PAGE = HERE.parents[1] / "docs/reference/faults.md"
KEPT = HERE.parents[1] / "var/chaos"  #: What was written in runs that failed.

STATISTICS = ["collect_statistics_interval = 1000"]  #: Milliseconds; the figures decide when a run is over.

Named = TypeVar("Named", Fault, System)


@contextmanager
def nodes_for(fault: Fault, everyday: Nodes, folder: Path) -> Iterator[Nodes]:
    """The backing services that a fault asks for; raises ``MissingPackages``."""
    with ExitStack() as stack:
        nodes = everyday
        if fault.clustered:
            nodes = replace(nodes, cluster=stack.enter_context(Cluster(folder / "cluster", STATISTICS)))
        if fault.clocked:
            packages.ensure(["faketime"])
            clock = stack.enter_context(Clock(folder / "clock"))
            redis = stack.enter_context(Redis(folder / "clocked-redis", environment=clock.environment))
            nodes = replace(nodes, redis=redis, clock=clock)
        yield nodes


def chosen(variable: str, everything: Sequence[Named]) -> list[Named]:
    """Those that an environment variable names, separated by commas; all if it is not set."""
    names = [name.strip() for name in os.environ.get(variable, "").split(",") if name.strip()]
    known = [one.name for one in everything]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SystemExit(f"{variable} names {', '.join(unknown)}; there are {', '.join(known)}")
    return [one for one in everything if not names or one.name in names]


def measured(faults: Sequence[Fault], systems: Sequence[System], folder: Path, console: Console) -> Iterator[Row]:
    """Each fault over each system that it concerns."""
    with (
        RabbitMQ(folder / "rabbitmq", management=True, config=STATISTICS) as rabbitmq,
        Redis(folder / "redis") as redis,
    ):
        for fault in faults:
            try:
                with nodes_for(fault, Nodes(rabbitmq, redis), folder) as nodes:
                    for system in systems:
                        if fault.only in (None, system.name):
                            yield measure(fault, system, nodes, folder / f"{system.name}-{fault.name}")
            except MissingPackages as missing:
                console.print(f"{fault.title}: not run, {missing}", style="yellow")


def measure(fault: Fault, system: System, nodes: Nodes, folder: Path) -> Row:
    """One run; what it wrote is kept if it shows what must not be."""
    row = Row(fault, system, Run(system, fault, JOBS, nodes, folder).measure())
    if row.breaks_the_promise:
        shutil.copytree(folder, KEPT / fault.name, dirs_exist_ok=True)
    return row


def main() -> int:
    """Run all, print the table, and return the exit status."""
    faults, systems = chosen("CHAOS_FAULTS", FAULTS), chosen("CHAOS_SYSTEMS", SYSTEMS)
    console = Console(width=None if sys.stdout.isatty() else 160)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder, console.status("starting") as status:
        for row in measured(faults, systems, Path(folder), console):
            rows.append(row)
            console.print(line(row), highlight=False)
            status.update(f"{len(rows)} runs done")
    show(console, rows)
    if os.environ.get("CHAOS_WRITE") == "1":
        versions = ", ".join(f"{name} {version(name)}" for name in ("dramatiq", "celery"))
        PAGE.write_text(page(rows, JOBS, versions))
    broken = [row for row in rows if row.breaks_the_promise]
    for row in broken:
        console.print(f"jobkit does not keep its word: {row.fault.title}; see {KEPT / row.fault.name}", style="red")
    return 1 if broken else 0


def _end(_number: int, _frame: object) -> None:
    raise SystemExit(143)  # so that SIGTERM, too, ends what was started


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    sys.exit(main())
