"""Workers, clients and schedulers of several versions, on one broker and one store."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import redis
from books import Books, Kill, dead_letters
from client import Client
from generations import Generation
from ledger import Ledger
from process_table import descendants
from queues import depth, wait_until_empty
from upgrade_jobs import OUTAGE
from versions import Version
from waiting import wait
from worker_process import WorkerProcess

SERVICES = ("shop", "post")

#: Seconds. Short, so that a killed worker's jobs are soon free. The store's timeout is a sixth of it.
LEASE = 3.0

#: Threads of each worker process, so jobs of a service that run at the same time.
THREADS = 4


@dataclass
class Worker:
    """The worker of one service, in one version."""

    version: Version
    service: str
    process: WorkerProcess

    def pids(self) -> frozenset[int]:
        """Return all processes of it that live."""
        return frozenset(pid for child in self.process.children for pid in (child, *descendants(child)))


@dataclass
class Fleet:
    """All that runs in a test. What still runs when the block ends is killed.

    Attributes:
        folder: Where the ledger, the marks and the logs are.
        broker: The address of RabbitMQ.
        store: The address of Redis.
        books: What has to happen.
        settings: Further variables of all workers.
    """

    folder: Path
    broker: str
    store: str
    books: Books = field(default_factory=Books)
    settings: dict[str, str] = field(default_factory=dict)
    _clients: dict[str, Client] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)
    _started: int = 0

    @property
    def ledger(self) -> Ledger:
        """What the workers did."""
        return Ledger(self.folder / "ledger")

    def worker(self, version: Version, service: str, **settings: str) -> Worker:
        """Start a worker with one process, and return once that takes jobs of ``service``."""
        self._started += 1
        name = f"{self._started}-{service}-{version.name}"
        environment = {**self._environment(version), **settings}
        known = len(self.ledger.entries("open"))
        process = WorkerProcess(self.folder, environment, supervised=True, service=service, name=name)
        self._stack.push(process.__exit__)
        process.start()
        opened = {entry.name for entry in self.ledger.entries("open")[known:]}
        assert opened == {str(version.root)}, f"{name} runs the jobkit of {opened}"
        return Worker(version, service, process)

    def replace(self, worker: Worker, version: Version, **settings: str) -> Worker:
        """Start the same service in another version beside it, then stop the one that there was (SIGTERM)."""
        successor = self.worker(version, worker.service, **settings)
        self.stop(worker)
        return successor

    def replace_killed(self, worker: Worker, version: Version, **settings: str) -> Worker:
        """Kill a worker (SIGKILL) at any moment, then start the same service in another version."""
        pids = worker.pids()
        self.kill(worker)
        self.books.kills.append(Kill(pids, time.time()))
        return self.worker(version, worker.service, **settings)

    def stop(self, *workers: Worker) -> None:
        """Stop workers as a deployment does; fail if one does not exit with 0."""
        for worker in workers:
            worker.process.signal(signal.SIGTERM)
        for worker in workers:
            assert worker.process.wait(40) == 0, worker.process.output()[-3000:]

    def kill(self, *workers: Worker) -> None:
        """Kill workers with all their processes, at a moment when no job is between its effect and its record."""
        for worker in workers:
            worker.process.kill()

    def client(self, version: Version, generation: Generation = "old") -> Client:
        """Return the client of a version, with one generation of the contracts; it is started at the first call."""
        name = f"{version.name}-{generation}"
        if name not in self._clients:
            built = Client(version, self.folder, self.broker, self.store, generation)
            self._clients[name] = self._stack.enter_context(built)
        return self._clients[name]

    def scheduler(self, version: Version) -> subprocess.Popen[bytes]:
        """Start a scheduler."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith("JOBKIT_")}
        with (self.folder / f"scheduler-{version.name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "jobkit.cli", "scheduler"],
                env={**kept, **self._environment(version)},
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )
        self._stack.callback(process.wait, 10)
        self._stack.callback(process.kill)
        return process

    def let_scheduler_send(self, version: Version, writer: Version) -> None:
        """Let a scheduler send the tick of last midnight, as if nobody had sent it yet.

        Args:
            version: Of the scheduler.
            writer: Of the worker that announced the schedule a day ago.
        """
        with redis.Redis.from_url(self.store) as store:
            store.delete(*store.keys("jobkit:schedules*"), "none")
        self.client(writer).announce_tick()
        scheduler = self.scheduler(version)
        wait(lambda: self.client(version).is_tick_sent(), f"the tick of the scheduler of {version.name}")
        scheduler.terminate()
        assert scheduler.wait(10) == 0

    def begin_outage(self) -> None:
        """Let every ``ShopCall`` fail until ``end_outage``."""
        (self.folder / OUTAGE).touch()

    def end_outage(self) -> None:
        """Let them succeed again."""
        (self.folder / OUTAGE).unlink()

    def finish(self, *workers: Worker, limit: float = 45.0) -> None:
        """Wait for all that was promised, stop the workers, and fail with a line for each broken promise."""
        deadline = time.monotonic() + limit
        while (missing := self.books.missing(self.ledger)) or set(self.books.dead) - set(self.dead_letters()):
            assert time.monotonic() < deadline, self._report(f"after {limit:g} s: {len(missing)} jobs have not ended")
            time.sleep(0.1)
        queues = [f"{worker.service}{lane}" for worker in workers for lane in ("", ".high")]
        wait_until_empty(self.broker, *queues)
        self.stop(*workers)  # with what they hold in their hands: a second run would be visible now
        assert {queue: depth(self.broker, queue) for queue in queues} == dict.fromkeys(queues, 0)
        assert self.books.problems(self.ledger, self.dead_letters()) == [], self._report("the books do not balance")

    def dead_letters(self) -> Counter[str]:
        """Return how many dead letters each job id has."""
        return dead_letters(self.broker, *SERVICES)

    def _report(self, title: str) -> str:
        return "\n".join([title, *self.books.problems(self.ledger, self.dead_letters())[:40]])

    def _environment(self, version: Version) -> dict[str, str]:
        own = {
            f"{service.upper()}_{name}": value
            for service in SERVICES
            for name, value in {
                "PROCESSES": "1",
                "THREADS": str(THREADS),
                "STOP_GRACE_SECONDS": "40",
                "STOP_LIMIT_SECONDS": "1",  # longer jobs are interrupted, and begin again in the other version
            }.items()
        }
        return {
            **version.environment(),
            **own,
            "JOBKIT_BROKER_URL": self.broker,
            "JOBKIT_STORE_URL": self.store,
            "JOBKIT_LEASE_SECONDS": f"{LEASE:g}",
            "JOBKIT_STORE_TIMEOUT_SECONDS": f"{LEASE / 6:g}",
            "UPGRADE_FOLDER": str(self.folder),
            **self.settings,
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)
