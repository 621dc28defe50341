"""What is put under faults: this project, and its peers beside it."""

import sys
from dataclasses import dataclass

#: Jobs at a time in each worker; processes in Celery's.
THREADS = 8


@dataclass(frozen=True)
class System:
    """One of them.

    Attributes:
        module: What sends its jobs and what its workers load.
        arguments: The command of one worker process, after the interpreter; ``{number}`` tells workers apart.
    """

    name: str
    module: str
    arguments: tuple[str, ...]

    def command(self, number: int) -> list[str]:
        """What starts worker ``number``."""
        return [sys.executable, "-W", "ignore", *(part.format(number=number) for part in self.arguments)]


SYSTEMS = (
    System("jobkit", "chaos_jobkit", ("-m", "dramatiq", "chaos_jobkit:broker", "-p", "1", "-t", str(THREADS))),
    System("dramatiq", "chaos_dramatiq", ("-m", "dramatiq", "chaos_dramatiq", "-p", "1", "-t", str(THREADS))),
    System(
        "celery",
        "chaos_celery",
        (
            "-m",
            "celery",
            "-A",
            "chaos_celery",
            "worker",
            "-c",
            str(THREADS),
            "-l",
            "WARNING",
            "-n",
            "worker{number}@%h",
        ),
    ),
)
