"""One system on private nodes: it sends, and its workers empty the queue."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import pika
from bench_job import FILE, LINE_BYTES, lines
from peers import System
from process_tree import ProcessTree
from results import Drain
from rig import BROKER, HERE, STORE, Rig
from watch import Watch

_QUEUE: Final = "load"
_LOOK: Final = 0.05  #: Seconds between two looks at a worker. A look takes a fraction of a millisecond.
_SEARCH: Final = 10  #: Looks between two searches for new processes, which take longer, once jobs run.
_STOP: Final = 10.0  #: Seconds until the kernel has ended a killed process.
_WORKER: Final = "worker"


@dataclass(frozen=True)
class Sent:
    """What a sending process has told: how many a second, and the most memory that it took."""

    per_second: float
    peak_bytes: int


class Room:
    """One system on a virtual host of its own: sends, fills its queue, and lets workers empty it."""

    def __init__(self, rig: Rig, system: System, url: str, folder: Path) -> None:
        self.rig = rig
        self.system = system
        self._url = url
        self._folder = folder
        self._environment = {**rig.environment(url), **system.environment}
        self._workers = 0

    @classmethod
    @contextmanager
    def opened(cls, rig: Rig, system: System, name: str) -> Iterator[Self]:
        """Give a system a virtual host and a folder of its own."""
        folder = rig.folder / name
        folder.mkdir()
        with rig.virtual_host(name) as url:
            yield cls(rig, system, url, folder)

    def send(self, how: str, count: int, *, seconds: float = 0.0, size: int = 0) -> Sent:
        """Send jobs that wait ``seconds`` and carry ``size`` bytes, from a process of its own."""
        arguments = [self.system.module, how, str(count), str(seconds), str(size)]
        command = [sys.executable, "-W", "ignore", str(HERE / "timed_sender.py"), *arguments]
        done = subprocess.run(
            command, env=self._environment, check=False, capture_output=True, text=True, timeout=limit(count)
        )
        if done.returncode:
            raise SystemExit(f"{self.system.title} could not send {count} jobs ({how}):\n{done.stderr[-2000:]}")
        return Sent(**json.loads(done.stdout.splitlines()[-1]))

    def clear(self) -> None:
        """Wait until the queue's workers are gone, and drop what they had not acknowledged."""
        deadline = time.monotonic() + limit(0)
        with pika.BlockingConnection(pika.URLParameters(self._url)) as connection:
            channel = connection.channel()
            while channel.queue_declare(_QUEUE, passive=True).method.consumer_count:
                if time.monotonic() > deadline:
                    raise SystemExit(f"{self.system.title}: killed workers still consume")
                time.sleep(_LOOK)
            channel.queue_purge(_QUEUE)

    def expect(self, count: int) -> None:
        """Wait until the queue holds ``count`` jobs. What was sent without confirms may still be on its way."""
        deadline = time.monotonic() + limit(count)
        with pika.BlockingConnection(pika.URLParameters(self._url)) as connection:
            channel = connection.channel()
            while (found := channel.queue_declare(_QUEUE, passive=True).method.message_count) != count:
                if time.monotonic() > deadline:
                    raise SystemExit(f"{self.system.title}: the queue holds {found} jobs instead of {count}")
                time.sleep(_LOOK)

    def fill(self, count: int, *, seconds: float = 0.0, size: int = 0) -> None:
        """Make a backlog in the queue, which holds nothing else."""
        self.send("fill", count, seconds=seconds, size=size)
        self.expect(count)

    @contextmanager
    def worker(self, environment: Mapping[str, str] | None = None) -> Iterator["Worker"]:
        """Run the system's workers within the block."""
        self._workers += 1
        file, log = self._folder / f"lines-{self._workers}", self._folder / f"worker-{self._workers}.log"
        told = {**self._environment, FILE: str(file), **(environment or {})}
        with running(self.system.worker, told, log) as process:
            yield Worker(self, process, file, log)
        self.clear()


class Worker:
    """Running workers."""

    def __init__(self, room: Room, process: "subprocess.Popen[bytes]", file: Path, log: Path) -> None:
        self._room = room
        self._process = process
        self._file = file
        self._log = log
        self._tree = ProcessTree(process.pid)

    def drain(self, count: int) -> Drain:
        """Wait until ``count`` jobs have started, and tell how that went between the first and the last of them."""
        watch = Watch({_WORKER: self._tree, **self._room.rig.trees})
        watch.look()
        self._wait_for(count, watch)
        watch.look()
        starts = sorted(start for _, start in lines(self._file)[:count])
        first, last = starts[0], starts[-1]
        each = {name: 1000 * watch.between(name, first, last) / (count - 1) for name in (_WORKER, BROKER, STORE)}
        return Drain(
            per_second=(count - 1) / (last - first),
            worker_ms=each[_WORKER],
            broker_ms=each[BROKER],
            store_ms=each[STORE],
            fullness=watch.fullness(first, last),
            others=watch.others(first, last),
        )

    def paced(self, count: int) -> list[float]:
        """Send jobs at an even pace, and return the seconds from each send to its start, but of the first."""
        before = self._file.stat().st_size // LINE_BYTES if self._file.exists() else 0
        self._room.send("paced", count)
        self._wait_for(before + count)
        return [start - sent for sent, start in sorted(lines(self._file)[before : before + count])[1:]]

    def memory_bytes(self) -> int:
        """Return the memory of all its processes."""
        return self._tree.pss_bytes()

    def _wait_for(self, count: int, watch: Watch | None = None) -> None:
        deadline, looks = time.monotonic() + limit(count), 0
        while not self._file.exists() or self._file.stat().st_size < count * LINE_BYTES:
            ended = self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                what = "ended" if ended else f"took more than {limit(count):.0f} s"
                tail = self._log.read_text(errors="replace")[-2000:]
                raise SystemExit(f"the workers of {self._room.system.title} {what} before {count} jobs ran:\n{tail}")
            if watch is not None:
                if looks % _SEARCH == 0 or not self._file.exists():
                    self._tree.refresh()  # so that each process is known before its first job
                watch.look()
                looks += 1
            time.sleep(_LOOK)


def limit(count: int) -> float:
    """Return the seconds that sending or working on ``count`` jobs may take: 100 a second are slow on any machine."""
    return 120 + count / 100


@contextmanager
def running(command: list[str], environment: Mapping[str, str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Run workers within the block, and kill them at its end: some take 20 s to stop."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    try:
        yield process
    finally:
        family = ProcessTree(process.pid).pids  # the first is the one that would start others again
        for pid in family:
            _kill(pid)
        process.wait(_STOP)


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
