"""The systems that are compared: what sends, and what works."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class System:
    """One of them, with two worker processes.

    Attributes:
        name: The key of its figures.
        title: As the page calls it.
        module: Its jobs and its `bench_job.Sender`.
        command: Its workers, without the interpreter.
        environment: Variables of its own, for both.
        pipelined: Whether it sends many with their confirms in flight together. One that does is filled that way, and
            timed meanwhile; another would take half of the benchmark's time for it.
    """

    name: str
    title: str
    module: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    pipelined: bool = False

    @property
    def worker(self) -> list[str]:
        """The command of its workers."""
        return [sys.executable, *self.command]


_DRAMATIQ = ("-m", "dramatiq", "load_dramatiq", "-p", "2", "-t", "8")
_CELERY = ("-m", "celery", "-A", "load_celery", "worker", "-c", "2", "-l", "WARNING")
_TASKIQ = ("-m", "taskiq", "worker", "load_taskiq:broker", "--workers", "2")

JOBKIT = System("jobkit", "jobkit", "load_jobkit", ("-m", "jobkit.cli", "worker", "load"), pipelined=True)
QUORUM = System("dramatiq", "Dramatiq, quorum queues", "load_dramatiq", _DRAMATIQ, {"BENCH_QUEUES": "quorum"})
CLASSIC = System("classic", "Dramatiq, classic queues", "load_dramatiq", _DRAMATIQ, {"BENCH_QUEUES": "classic"})
CELERY = System("celery", "Celery", "load_celery", _CELERY)
TASKIQ = System("taskiq", "Taskiq", "load_taskiq", _TASKIQ, pipelined=True)

SYSTEMS = (JOBKIT, QUORUM, CLASSIC, CELERY, TASKIQ)


def rotated(number: int) -> tuple[System, ...]:
    """Return all systems in the order of a round: each begins with another."""
    start = number % len(SYSTEMS)
    return SYSTEMS[start:] + SYSTEMS[:start]
