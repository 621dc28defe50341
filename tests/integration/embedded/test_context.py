"""What a job may ask its context for: memory, checkpoints, shields, when it was sent, and whether to stop."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import dramatiq
import pytest

from jobkit.broker.memory import MemoryExchange
from jobkit.context import Context
from jobkit.contracts import Job
from jobkit.errors import PermanentError, Snooze, StoreUnavailable, TransientError
from jobkit.producer import Producer
from jobkit.retry import fixed
from jobkit.service import Service
from jobkit.settings import PlatformSettings, ServiceSettings
from jobkit.store.base import JobKey, JobRecord, JobState, Lease
from jobkit.store.memory import MemoryStore

Do = Callable[[Context[None]], object]


class Long(Job, queue="long"):
    """Takes its time."""


class Wordy(Job, queue="long"):
    """Has much to say."""


class Store(MemoryStore):
    """A store that is away on demand."""

    def __init__(self) -> None:
        super().__init__()
        self.is_away = False

    def remember(self, lease: Lease, name: str, value: bytes) -> bytes | None:
        if self.is_away:
            self.is_away = False
            raise StoreUnavailable("the store is away")
        return super().remember(lease, name, value)

    def checkpoint(self, lease: Lease) -> bool:
        if self.is_away:
            raise StoreUnavailable("the store is away")
        return super().checkpoint(lease)


class Stage:
    """A worker for long jobs."""

    def __init__(self) -> None:
        self.store, self.exchange = Store(), MemoryExchange()
        self.producer = Producer.over(self.exchange)
        self.do: Do = lambda _context: None
        self.attempts: list[int] = []
        service: Service[ServiceSettings, None] = Service("long", lifespan=lambda _: contextlib.nullcontext())
        retry = fixed(0.005, attempts=3, retry_on=TransientError)
        service.actor(Long, retry=retry, time_limit=timedelta(seconds=5))(self._run)
        service.actor(Wordy, retry=retry, large_result="drop")(self._run)
        self.broker = service.embed(self.exchange, self.store, PlatformSettings(environment="test"), ServiceSettings())
        self.worker = dramatiq.Worker(self.broker, worker_threads=2, worker_timeout=10)

    def _run(self, _job: Job, context: Context[None]) -> object:
        self.attempts.append(context.attempt)
        return self.do(context)

    def end(self, job: Job | None = None) -> JobRecord:
        """Send a job and return its record once it has ended."""
        receipt = self.producer.send(job or Long())
        key = JobKey.of(receipt.queue, receipt.actor, receipt.job_id)
        deadline = time.monotonic() + 10
        while True:
            record = self.store.record(key)
            if record is not None and record.state in {JobState.DONE, JobState.DEAD}:
                return record
            assert time.monotonic() < deadline, record
            time.sleep(0.005)


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    stage.worker.start()
    yield stage
    stage.worker.stop(timeout=5_000)


def runs(*steps: Do) -> Do:
    """A job that does another step at each of its runs."""
    left = list(steps)
    return lambda context: left.pop(0)(context)


def fails(_context: Context[None]) -> object:
    raise TransientError("busy")


def test_a_later_run_is_told_what_an_earlier_one_has_remembered(stage: Stage) -> None:
    told: list[str] = []

    def first(context: Context[None]) -> None:
        told.append(context.remember("step", "first"))
        raise TransientError("busy")

    def second(context: Context[None]) -> None:
        told.append(context.remember("step", "second"))
        context.forget("step")
        told.append(context.remember("step", "second"))

    stage.do = runs(first, second)
    assert stage.end().state is JobState.DONE
    assert told == ["first", "first", "second"]


def test_a_job_that_cannot_be_remembered_waits_without_an_attempt_used_up(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobkit.waits.FIRST_WAIT", timedelta())
    stage.store.is_away = True
    stage.do = lambda context: context.remember("step", "first")
    assert stage.end().result == b'"first"'
    assert stage.attempts == [1, 1]


@pytest.mark.parametrize("name", ["", "jobkit.sent/1/a"])
def test_a_job_cannot_remember_under_the_names_that_jobkit_uses(stage: Stage, name: str) -> None:
    stage.do = lambda context: context.remember(name, "a word")
    assert "ValueError" in stage.end().failure


def test_attempts_count_from_the_last_checkpoint(stage: Stage) -> None:
    def advances(context: Context[None]) -> None:
        context.checkpoint()
        raise TransientError("busy")

    stage.do = runs(fails, fails, advances, fails, advances, fails, lambda _: "done")
    assert stage.end().result == b'"done"'
    assert stage.attempts == [1, 2, 3, 2, 3, 2, 3]


def test_a_job_that_advances_no_more_dies_with_the_attempts_since_then(stage: Stage) -> None:
    def advances(context: Context[None]) -> None:
        context.checkpoint()
        raise TransientError("busy")

    stage.do = runs(fails, advances, fails, fails)
    record = stage.end()
    assert (record.state, record.attempt) == (JobState.DEAD, 3)
    (letter,) = stage.exchange.dead_letters("long")
    assert letter.failure.attempts == 3


def test_a_snooze_after_a_checkpoint_uses_up_no_attempt(stage: Stage) -> None:
    def advances(context: Context[None]) -> None:
        context.checkpoint()
        raise Snooze(0)

    stage.do = runs(fails, fails, advances, fails, fails, lambda _: "done")
    assert stage.end().result == b'"done"'
    assert stage.attempts == [1, 2, 3, 1, 2, 3]


def test_a_checkpoint_that_cannot_be_recorded_stops_no_job(stage: Stage) -> None:
    def unheard(context: Context[None]) -> None:
        stage.store.is_away = True
        context.checkpoint()
        raise TransientError("busy")

    stage.do = runs(fails, unheard, lambda _: "done")
    assert stage.end().attempt == 3


def test_a_job_that_takes_down_ten_workers_between_checkpoints_is_poison(stage: Stage) -> None:
    message = stage.producer.send(Long(), delay=timedelta(seconds=1))  # not before its record is made
    key = JobKey.of(message.queue, message.actor, message.job_id)
    instant = timedelta(microseconds=1)
    for number in range(10):
        lease = stage.store.acquire(key, f"dies {number}", ttl=instant, sent_at=1)
        assert isinstance(lease, Lease)
        stage.store.checkpoint(lease)
    deadline = time.monotonic() + 10
    while (record := stage.store.record(key)) is None or record.state is not JobState.DEAD:
        assert time.monotonic() < deadline, record
        time.sleep(0.005)
    assert "10 workers died" in record.failure
    assert stage.attempts == []


def test_no_interrupt_cuts_a_shielded_call_in_half(stage: Stage) -> None:
    steps: list[str] = []
    begun = threading.Event()

    def call() -> str:
        steps.append("begun")
        begun.set()
        while not stage.broker.stopping.wait(0.01) and len(steps) < 2:
            pass
        steps.append("ended")
        return "taken"

    def job(context: Context[None]) -> object:
        steps.append(context.shielded(call, at_most=timedelta(seconds=3)))
        return context.stopping

    stage.do = job
    receipt = stage.producer.send(Long())
    assert begun.wait(5)
    stage.worker.stop(timeout=5_000)
    assert steps == ["begun", "ended", "taken"]
    record = stage.store.record(JobKey.of(receipt.queue, receipt.actor, receipt.job_id))
    assert record is not None
    assert record.result == b"true", "the worker was stopping"


def test_all_runs_know_when_the_job_was_sent(stage: Stage) -> None:
    told: list[datetime] = []

    def tells(context: Context[None]) -> None:
        told.append(context.sent_at)
        if len(told) == 1:
            raise TransientError("busy")
        if len(told) == 2:
            raise Snooze(0)

    before = datetime.now(UTC)
    stage.do = tells
    assert stage.end().state is JobState.DONE
    assert len(set(told)) == 1
    assert before - timedelta(milliseconds=1) <= told[0] <= datetime.now(UTC)


def test_a_result_that_is_too_large_fails_the_job_unless_the_actor_drops_it(stage: Stage) -> None:
    stage.do = lambda _context: "x" * 262_143
    record = stage.end(Long())
    assert record.state is JobState.DEAD
    assert "the result has 262,145 bytes, and a job's record keeps 262,144: split the job" in record.failure
    record = stage.end(Wordy())
    assert (record.state, record.result) == (JobState.DONE, b"")
    stage.do = lambda _context: "x" * 262_142
    assert len(stage.end(Long()).result) == 262_144
    assert stage.attempts == [1, 1, 1]


def test_a_result_that_is_no_data_fails_the_job_whatever_the_actor_does_with_large_ones(stage: Stage) -> None:
    stage.do = lambda _context: object()
    assert "the result (object) is no data" in stage.end(Wordy()).failure
    stage.do = lambda _context: (_ for _ in ()).throw(PermanentError("other"))
    assert "other" in stage.end(Wordy()).failure
