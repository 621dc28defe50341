"""Worker processes under a supervisor that starts them again when they end, as an orchestrator does."""

import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from process_table import pids

from local_stack.process import Process

#: Seconds between two looks at the workers.
WATCH = 0.1
#: Seconds that an ended worker gets after SIGTERM, as an orchestrator's stop grace.
GRACE = 30.0


@dataclass(frozen=True)
class Kill:
    """One SIGKILL: which processes it ended, and when."""

    pids: frozenset[int]
    at: float


class Workers:
    """Keeps one process group alive for each command, until the block ends; then none is left."""

    def __init__(self, commands: Sequence[list[str]], environment: Mapping[str, str], folder: Path) -> None:
        self._commands = commands
        self._environment = environment
        self._folder = folder
        self._running: dict[int, Process] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        # The kernel ends the workers with the thread that started them, so this one lives as long as they should.
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self.kills: list[Kill] = []
        self.starts = 0

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._commands)

    @property
    def log(self) -> Path:
        """All that they say."""
        return self._folder / "worker.log"

    def kill(self, *numbers: int) -> None:
        """SIGKILL whole process groups, as a machine that loses power does."""
        with self._lock:
            groups = [self._running[number].pid for number in numbers]
            pids = frozenset(pid for group in groups for pid in _members(group))
            for group in groups:
                _signal_group(group, signal.SIGKILL)
            self.kills.append(Kill(pids, time.time()))

    def terminate(self, number: int) -> bool:
        """SIGTERM to one, and whether it ended within the grace; it is killed otherwise."""
        with self._lock:
            process = self._running[number]
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        while time.monotonic() < deadline:
            with self._lock:
                if self._running[number] is not process:
                    return True
            time.sleep(WATCH)
        self.kill(number)
        return False

    def _watch(self) -> None:
        while not self._ended.is_set():
            with self._lock:
                for number in range(len(self._commands)):
                    self._keep(number)
            self._ended.wait(WATCH)

    def _keep(self, number: int) -> None:
        process = self._running.get(number)
        if process is not None:
            if process.alive:
                return
            _signal_group(process.pid, signal.SIGKILL)  # what a dead parent has left behind
        self._running[number] = Process.spawn(
            self._commands[number], log=self.log, environment=self._environment, folder=self._folder
        )
        self.starts += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join(10)
        for process in self._running.values():
            _signal_group(process.pid, signal.SIGKILL)
            process.wait(10)


def _members(group: int) -> list[int]:
    return [pid for pid in pids() if _group_of(pid) == group]


def _group_of(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0


def _signal_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)
