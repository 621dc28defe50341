"""This project beside bare Dramatiq and Celery under faults: the same jobs, the same broker, the same blows.

    make chaos                                            every fault and system, 2,000 jobs each; about half an hour
    CHAOS_FAULTS=kill,restart CHAOS_SYSTEMS=jobkit make chaos
    CHAOS_JOBS=200 make chaos                             a quick look
    CHAOS_WRITE=1 make chaos                              also writes docs/reference/faults.md

The parts are in ``suite``: the systems, the faults, a run, and how its jobs are counted. The exit status is 1 if jobkit
lost a job or did one twice, except where a SIGKILL fell between a job's effect and its record.
"""

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "suite"), str(HERE.parent / "harness")]

from faults import FAULTS, Fault  # noqa: E402  the tests are files, not packages
from report import Row, line, page, show  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import Progress  # noqa: E402
from run import Nodes, Run  # noqa: E402
from systems import SYSTEMS, System  # noqa: E402

from local_stack.rabbitmq import RabbitMQ  # noqa: E402
from local_stack.redis import Redis  # noqa: E402

JOBS = int(os.environ.get("CHAOS_JOBS", "2000"))
PAGE = HERE.parents[1] / "docs/reference/faults.md"
KEPT = HERE.parents[1] / "var/chaos"  #: What was written in runs that failed.

Named = TypeVar("Named", Fault, System)


def chosen(variable: str, everything: Sequence[Named]) -> list[Named]:
    """Those that an environment variable names, separated by commas; all if it is not set."""
    names = [name.strip() for name in os.environ.get(variable, "").split(",") if name.strip()]
    known = [one.name for one in everything]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SystemExit(f"{variable} names {', '.join(unknown)}; there are {', '.join(known)}")
    return [one for one in everything if not names or one.name in names]


def main() -> int:
    """Run all, print the table, and return the exit status."""
    faults, systems = chosen("CHAOS_FAULTS", FAULTS), chosen("CHAOS_SYSTEMS", SYSTEMS)
    pairs = [(fault, system) for fault in faults for system in systems if fault.only in (None, system.name)]
    console = Console(width=None if sys.stdout.isatty() else 160)
    rows: list[Row] = []
    with (
        tempfile.TemporaryDirectory() as text,
        RabbitMQ(Path(text) / "rabbitmq", management=True, config=["collect_statistics_interval = 1000"]) as rabbitmq,
        Redis(Path(text) / "redis") as redis,
        Progress(console=console, transient=True) as progress,
    ):
        task = progress.add_task("starting", total=len(pairs))
        for fault, system in pairs:
            progress.update(task, description=f"{system.name}: {fault.title}")
            folder = Path(text) / f"{system.name}-{fault.name}"
            rows.append(Row(fault, system, Run(system, fault, JOBS, Nodes(rabbitmq, redis), folder).measure()))
            progress.advance(task)
            if system.name == "jobkit" and not rows[-1].account.holds:
                shutil.copytree(folder, KEPT / fault.name, dirs_exist_ok=True)
            console.print(line(rows[-1]), highlight=False)
    show(console, rows)
    if os.environ.get("CHAOS_WRITE") == "1":
        versions = ", ".join(f"{name} {version(name)}" for name in ("dramatiq", "celery"))
        PAGE.write_text(page(rows, JOBS, versions))
    broken = [row for row in rows if row.system.name == "jobkit" and not row.account.holds]
    for row in broken:
        console.print(f"jobkit does not keep its word: {row.fault.title}; see {KEPT / row.fault.name}", style="red")
    return 1 if broken else 0


def _end(_number: int, _frame: object) -> None:
    raise SystemExit(143)  # so that SIGTERM, too, ends what was started


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    sys.exit(main())
