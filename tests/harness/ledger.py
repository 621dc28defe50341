"""What really happened: one line per event in a file, appended in one write, so that kill -9 loses none."""

import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Entry:
    """One line."""

    event: str
    name: str
    attempt: int
    pid: int
    at: float


class Ledger:
    """An append-only file that many processes write, by the time of ``clock``: the same one, if it is given."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self._clock = clock

    def write(self, event: str, name: str, attempt: int = 0) -> None:
        """Append a line."""
        line = f"{event}\t{name}\t{attempt}\t{os.getpid()}\t{self._clock()}\n"
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, line.encode())
        finally:
            os.close(file)

    def entries(self, event: str | None = None) -> list[Entry]:
        """All lines, or those of one event."""
        if not self.path.exists():
            return []
        rows = [line.split("\t") for line in self.path.read_text().splitlines()]
        entries = [Entry(e, name, int(attempt), int(pid), float(at)) for e, name, attempt, pid, at in rows]
        return [entry for entry in entries if event in (None, entry.event)]

    def counts(self, event: str) -> Counter[str]:
        """How often each name had the event."""
        return Counter(entry.name for entry in self.entries(event))

    def wait(self, condition: Callable[["Ledger"], bool], limit: float = 30.0, what: str = "the ledger") -> None:
        """Return once the condition holds; fail with what there is after ``limit`` seconds."""
        deadline = time.monotonic() + limit
        while not condition(self):
            if time.monotonic() > deadline:
                tail = "\n".join(map(str, self.entries()[-20:]))
                raise AssertionError(f"{what} was not as expected within {limit:g} s; its end:\n{tail}")
            time.sleep(0.02)

    def wait_for(self, event: str, *names: str, limit: float = 30.0) -> None:
        """Return once every name has had the event."""
        self.wait(lambda ledger: set(names) <= set(ledger.counts(event)), limit, f"{event} of {', '.join(names[:5])}")
