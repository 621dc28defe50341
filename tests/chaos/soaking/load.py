"""The mixed load: what is sent, at which pace, and what must become of it."""

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Self

from ledger import Ledger
from soak_service import Task

from jobkit.errors import SendError
from jobkit.producer import Producer

#: Jobs per second, children aside; the two workers could do five times as many, and catch up after a fault.
RATE = 20.0
#: Seconds of work in each.
LONGEST = 0.2
#: Seconds between a send that raised and the next try.
PAUSE = 0.2

Form = Callable[[str, Random], tuple[Task, timedelta, int]]


def _of(first: str = "", children: int = 0, longest_delay: float = 0.0, copies: int = 1) -> Form:
    def make(name: str, draw: Random) -> tuple[Task, timedelta, int]:
        task = Task(name=name, seconds=draw.uniform(0, LONGEST), first=first, children=children)
        return task, timedelta(seconds=draw.uniform(0, longest_delay)), copies

    return make


#: The kinds of job with their share of the load.
MIX: dict[str, tuple[Form, float]] = {
    "plain": (_of(), 50),
    "failing": (_of(first="fail"), 12),
    "snoozing": (_of(first="snooze"), 8),
    "delayed": (_of(longest_delay=15), 10),
    "parent": (_of(children=3), 6),
    "double": (_of(copies=2), 10),
    "doomed": (_of(first="give up"), 4),
}


class Load:
    """Sends at an even pace until the block ends; each job under its name, again until it was confirmed.

    Attributes:
        doomed: Those that must become dead letters.
    """

    def __init__(self, url: str, folder: Path, seed: str) -> None:
        self._producer = Producer(url, name="soak", timeout=5)
        self._sent = Ledger(folder / "sent")
        self._draw = Random(seed)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load")
        self.doomed: set[str] = set()
        self.error: BaseException | None = None

    def _run(self) -> None:
        names, weights = list(MIX), [share for _, share in MIX.values()]
        began, number = time.monotonic(), 0
        try:
            while not self._ended.wait(max(0.0, began + number / RATE - time.monotonic())):
                (kind,) = self._draw.choices(names, weights)
                self._send(kind, f"{kind}-{number:06}")
                number += 1
        except BaseException as error:
            self.error = error
        finally:
            self._producer.close()

    def _send(self, kind: str, name: str) -> None:
        task, delay, copies = MIX[kind][0](name, self._draw)
        lane = self._draw.choice(Task.lanes)
        for _ in range(copies):
            while not self._is_confirmed(task, delay, lane):
                time.sleep(PAUSE)  # also after the end: what was begun is accounted for
        if kind == "doomed":
            self.doomed.add(name)
        for one in (name, *(f"{name}/{child}" for child in range(task.children))):
            self._sent.write("accepted", one)

    def _is_confirmed(self, task: Task, delay: timedelta, lane: str) -> bool:
        try:
            self._producer.send(task, job_id=task.name, delay=delay, lane=lane)
        except SendError:
            self._sent.write("raised", task.name)
            return False
        return True

    def stop(self) -> None:
        """Send no more."""
        self._ended.set()
        self._thread.join(120)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
