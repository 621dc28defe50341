"""The page ``docs/reference/performance.md``, written from nothing but the benchmark's results."""

from collections.abc import Callable, Iterator
from typing import Final

from aims import aims
from full_section import full_section
from peers import CELERY, CLASSIC, JOBKIT, QUORUM, SYSTEMS, TASKIQ
from rendered import counted, table
from results import Machine, Results
from short_section import short_section, warning

_INTRODUCTION: Final = """# Performance

Written by `make bench` and `make bench FULL=1`; do not edit. The figures are kept in
[performance.json](performance.json).

Compare ratios, not absolute figures. Absolute figures differ between machines, and between two runs on one machine.
Each round measures all systems in turn, on the same RabbitMQ and the same Redis, and begins with another system. A cell
shows the median of all rounds, then the least and the most. Broker, store, senders and workers share the machine's
cores."""

#: By the name of the system.
_SETTINGS: Final = {
    JOBKIT.name: "As shipped: `jobkit worker` with 8 threads per process, quorum queues, a confirm for each send, "
    "lease and record in Redis with `appendfsync always`, INFO logs, no OTLP endpoint",
    QUORUM.name: "8 threads per process, `confirm_delivery=True`, default middleware, queues of the type `quorum`. "
    "Keeps no record of what was done",
    CLASSIC.name: "The same, with the queues that it declares by itself",
    CELERY.name: "Late acks, confirms, `task_reject_on_worker_lost`, prefetch 64, no results, classic queues",
    TASKIQ.name: "`taskiq-aio-pika` as it comes: coroutines, quorum queues, confirms, ack after the job, prefetch 10",
}

_MEASURES: Final = """- **Sends, one by one**: the sender waits for the confirm of each job before it sends the next.
- **Sends, in bulk**: the fastest confirmed way that the system has. jobkit has `send_many`, Taskiq sends 500 jobs at a
  time, the others send in a loop.
- **Drain**: jobs per second, from the start of the first job to the start of the last. The backlog is complete before
  the workers start.
- **CPU per job**: time on the processors between these two moments, divided by the number of jobs. It covers all
  processes of the worker: supervisor, master and children. The start of the workers does not count.
- **Memory**: proportional set size (PSS) of the same processes, right after the drain.
- **Latency**: from the send to the start of the job, at 100 sends per second. The workers have nothing else to do.

Each job appends 16 bytes to a file: when it was sent and when it started. A Celery process runs one job at a time, so
it is idle while a job waits."""


def page(results: Results) -> str:
    """Return the whole page."""
    parts = [_INTRODUCTION, *_machines(results)]
    if results.short and (text := warning(results.short)):
        parts.append(text)
    parts += ["## Aims", aims(results)]
    if results.short:
        parts += short_section(results.short)
    if results.full:
        parts += full_section(results.full)
    compared = table(["system", "settings"], ([one.title, _SETTINGS[one.name]] for one in SYSTEMS), text=True)
    parts += ["## What is compared", "Each system has 2 worker processes.", compared, _MEASURES]
    return "\n\n".join(parts) + "\n"


def _machines(results: Results) -> Iterator[str]:
    parts = (("`make bench`", results.short), ("`make bench FULL=1`", results.full))
    runs = [(title, part.machine) for title, part in parts if part is not None]
    rows: dict[str, Callable[[Machine], str]] = {
        "day": lambda machine: machine.day,
        "processor": lambda machine: f"{machine.processor}, {counted(machine.cores, 'core')}",
        "memory": lambda machine: f"{machine.memory_gb:g} GB",
        "system": lambda machine: machine.system,
        "versions": lambda machine: ", ".join(" ".join(pair) for pair in machine.versions.items()),
    }
    yield "## Machine and versions"
    head = ["", *(title for title, _ in runs)]
    yield table(head, ([title, *(value(one) for _, one in runs)] for title, value in rows.items()), text=True)
