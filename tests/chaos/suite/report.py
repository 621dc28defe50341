"""The figures as a table for the terminal and as a page of the documentation."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from account import Account
from faults import Fault
from rich.console import Console
from rich.table import Table
from run import BUSY, LEASE, LIMIT, OVER, WORKERS, job_seconds
from sender import LONGEST, SHORTEST
from strikes import JUMP, OUTAGE
from systems import THREADS, System


@dataclass(frozen=True)
class Row:
    """One run."""

    fault: Fault
    system: System
    account: Account

    @property
    def breaks_the_promise(self) -> bool:
        """Whether it shows jobkit losing a job, giving one up, or doing one twice."""
        return self.system.name == "jobkit" and not self.account.holds


def _recovery(account: Account) -> str:
    if not account.finished:
        return f"not within {LIMIT:.0f}"
    return "" if account.recovery is None else f"{account.recovery:.1f}"


COLUMNS: tuple[tuple[str, Callable[[Account], str]], ...] = (
    ("accepted", lambda a: f"{a.accepted:,}"),
    ("sends raised", lambda a: f"{a.raised:,}"),
    ("lost", lambda a: f"{a.lost:,}"),
    ("done twice", lambda a: f"{a.twice:,}"),
    ("in the window", lambda a: f"{a.excused:,}"),
    ("started again", lambda a: f"{a.again:,}"),
    ("dead letters", lambda a: f"{a.dead:,}"),
    ("recovery, s", _recovery),
)


def line(row: Row) -> str:
    """One run in one line."""
    figures = ", ".join(f"{form(row.account) or '-'} {title}" for title, form in COLUMNS)
    return f"{row.system.name}, {row.fault.title}: {figures}"


def show(console: Console, rows: Sequence[Row]) -> None:
    """Print the table."""
    table = Table(title="jobs under faults")
    table.add_column("fault")
    table.add_column("system")
    for title, _ in COLUMNS:
        table.add_column(title, justify="right")
    before: Fault | None = None
    for row in rows:
        if before not in (None, row.fault):
            table.add_section()
        title = "" if row.fault is before else row.fault.title
        style = "bold red" if row.breaks_the_promise else None
        table.add_row(title, row.system.name, *(form(row.account) for _, form in COLUMNS), style=style)
        before = row.fault
    console.print(table)


def page(rows: Sequence[Row], jobs: int, versions: str) -> str:
    """The page ``docs/reference/faults.md``."""
    titles = ["fault", "system", *(title for title, _ in COLUMNS)]
    lines = [
        f"| {' | '.join(titles)} |",
        f"|---|---|{'---:|' * len(COLUMNS)}",
        *(
            f"| {row.fault.title} | {row.system.name} | {' | '.join(form(row.account) for _, form in COLUMNS)} |"
            for row in rows
        ),
    ]
    return _PAGE.format(
        table="\n".join(lines),
        versions=versions,
        jobs=f"{jobs:,}",
        workers=WORKERS,
        shortest=SHORTEST * job_seconds(jobs) * 1000,
        longest=LONGEST * job_seconds(jobs) * 1000,
        busy=BUSY,
        over=OVER,
        threads=THREADS,
        outage=OUTAGE,
        jump=JUMP,
        lease=LEASE,
        limit=LIMIT,
    )


_PAGE = """# Under faults

Written by `CHAOS_WRITE=1 make chaos`; do not edit. The counts are what matters: where a fault falls between two steps
differs from run to run, and times differ from machine to machine.

{table}

- **accepted**: jobs whose send was confirmed. **Sends raised** were repeated under the same id until one was confirmed.
- **lost**: accepted, and neither ended nor dead-lettered when the run was over. Where there was no recovery within
  {limit:.0f} s, some of them may only be late.
- **done twice**: ended more than once. **In the window**: the same, but a SIGKILL fell between the job's effect and its
  record, which only the effect's own transaction can close; see [Guarantees](../explanation/guarantees.md).
- **started again**: started more often than asked. A job that a killed worker had not ended has to be.
- **recovery**: seconds from the fault's end to the next job that ended; nothing where none was left by then.

## How it was measured

With {versions}: each run on a virtual host of its own of a private one-node RabbitMQ, jobkit's with a private Redis
that has an append-only file. {jobs} jobs of {shortest:.0f} to {longest:.0f} ms are sent, half of them at once and half
over {over:.0f} s, to {workers} worker processes that do {threads} jobs at a time each, which keeps them busy for
{busy:.0f} s. A supervisor starts a worker again when it ends. A job appends a line to a file when it starts and another
when it ends, the sender one when a send is confirmed or raises; the figures are taken from those lines, and from the
dead-letter queues. The fault strikes when an eighth of the jobs has ended. What is stopped, killed, frozen, full or
wrong stays so for {outage:.0f} s, in which, where a fault is about retries, every job fails that ends its first run. In
the cluster of three nodes all systems have quorum queues. The clock that moves by {jump:.0f} s is that of the workers
and of Redis, by libfaketime; the broker's stays right. A run is over when no queue holds a message and nothing happens
any more, {limit:.0f} s after the fault at the latest.

- **jobkit** with its defaults, but a lease of {lease} s.
- **dramatiq** with `confirm_delivery=True`, default middleware and seven retries.
- **celery** with late acks, rejection of jobs whose worker is lost, confirms and seven retries; the prefork pool.

`make chaos` measures it again, `CHAOS_FAULTS=kill,restart CHAOS_SYSTEMS=jobkit CHAOS_JOBS=200 make chaos` a part of it.
"""
