"""Two services and their workers in this process: Dramatiq and our middleware, with queues and records in memory."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import dramatiq
from dramatiq.middleware import Middleware

from jobkit.broker.memory import DeadLetter, MemoryExchange
from jobkit.context import Context
from jobkit.contracts import Job
from jobkit.errors import TransientError
from jobkit.producer import Producer
from jobkit.receipt import Receipt
from jobkit.retry import fixed, never
from jobkit.service import Service
from jobkit.settings import PlatformSettings, ServiceSettings
from jobkit.store.base import Finished, Held, JobKey, JobRecord, JobState, Lease, Suspect
from jobkit.store.memory import MemoryStore

WAIT = 0.005  # seconds until a retry


class Work(Job, queue="work", lanes=("high", "normal")):
    """Do what the test has told the desk."""

    name: str = "job"


class Step(Job, queue="next"):
    """A job of another service."""

    name: str


class Once(Job, queue="work"):
    """What nobody may do again."""


class Versioned(Job, queue="work", version=2):
    """A contract that has changed."""


@dataclass
class Desk:
    """The resources of the service under test: what to do, and what was done."""

    do: Callable[[Work, "Context[Desk]"], object] = lambda _job, _context: None
    runs: list[tuple[str, int]] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    is_open: bool = False


class Store(MemoryStore):
    """A store with a clock that moves forward on demand, and outages and errors on demand."""

    def __init__(self) -> None:
        super().__init__(clock=lambda: time.time() + self.skipped)
        self.skipped = 0.0
        self.failures: dict[str, list[Exception]] = {}

    def _meet(self, method: str) -> None:
        if self.failures.get(method):
            raise self.failures[method].pop(0)

    def acquire(self, job: JobKey, owner: str, **more: Any) -> Lease | Held | Suspect | Finished:  # Any: as declared
        self._meet("acquire")
        return super().acquire(job, owner, **more)

    def report(self, lease: Lease, *, percent: float, step: str, note: str) -> bool:
        self._meet("report")
        return super().report(lease, percent=percent, step=step, note=note)

    def complete(self, lease: Lease, result: bytes) -> bool:
        self._meet("complete")
        return super().complete(lease, result)

    def release(self, lease: Lease, **more: Any) -> bool:  # Any: as declared
        self._meet("release")
        return super().release(lease, **more)


class Stage:
    """Two services on one exchange, their workers and a producer."""

    def __init__(self, *, foreign: Sequence[Middleware] = ()) -> None:
        self.desk, self.store, self.exchange = Desk(), Store(), MemoryExchange()
        self.producer = Producer.over(self.exchange)
        platform, settings = PlatformSettings(environment="test"), ServiceSettings()
        self.brokers = [s.embed(self.exchange, self.store, platform, settings) for s in self._services()]
        for one in foreign:
            self.brokers[0].add_middleware(one)
        self.workers = [dramatiq.Worker(broker, worker_threads=2, worker_timeout=10) for broker in self.brokers]

    def _services(self) -> list["Service[ServiceSettings, Desk]"]:
        @contextlib.contextmanager
        def sit_down(_settings: ServiceSettings) -> Iterator[Desk]:
            self.desk.is_open = True
            yield self.desk
            self.desk.is_open = False

        first: Service[ServiceSettings, Desk] = Service("work", lifespan=sit_down)
        second: Service[ServiceSettings, Desk] = Service("next", lifespan=sit_down)

        @first.actor(Work, retry=fixed(WAIT, attempts=3, retry_on=TransientError))
        def work(job: Work, context: Context[Desk]) -> object:
            self.desk.runs.append((job.name, context.attempt))
            return self.desk.do(job, context)

        @first.actor(Once, retry=never())
        def once(_job: Once, context: Context[Desk]) -> object:
            self.desk.runs.append(("once", context.attempt))
            return self.desk.do(Work(), context)

        @first.actor(Versioned)
        def versioned(_job: Versioned, _context: Context[Desk]) -> None:
            self.desk.runs.append(("versioned", 1))

        @second.actor(Step)
        def step(job: Step, _context: Context[Desk]) -> None:
            self.desk.steps.append(job.name)

        return [first, second]

    def start(self) -> None:
        for worker in self.workers:
            worker.start()

    def stop(self) -> None:
        for worker in self.workers:
            worker.stop(timeout=5_000)

    def record(self, receipt: Receipt) -> JobRecord | None:
        return self.store.record(JobKey.of(receipt.queue, receipt.actor, receipt.job_id))

    def wait(self, receipt: Receipt, state: JobState) -> JobRecord:
        def stands() -> bool:
            record = self.record(receipt)
            return record is not None and record.state is state

        until(stands)
        record = self.record(receipt)
        assert record is not None
        return record

    def dead_letter(self) -> DeadLetter:
        until(lambda: bool(self.exchange.dead_letters("work")))
        (letter,) = self.exchange.dead_letters("work")
        return letter

    def idle(self) -> None:
        until(lambda: not any(queue.unfinished_tasks for b in self.brokers for queue in b.queues.values()))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.002)


def failing(*errors: BaseException) -> Callable[[Work, Context[Desk]], object]:
    remaining = list(errors)

    def do(_job: Work, _context: Context[Desk]) -> object:
        if remaining:
            raise remaining.pop(0)
        return "done at last"

    return do
