"""What observers are told of jobs, and when: after the store has recorded it."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any

import dramatiq
import pytest
from dramatiq import Message

from jobkit import telemetry
from jobkit.broker.memory import MemoryExchange
from jobkit.context import Context
from jobkit.contracts import Job
from jobkit.errors import PermanentError, Snooze, StoreUnavailable, TransientError
from jobkit.middleware import observing
from jobkit.observers import Event, Observation, Observer
from jobkit.observers.delivery import Delivery
from jobkit.producer import Producer, message_for
from jobkit.receipt import Receipt
from jobkit.retry import fixed
from jobkit.service import Service
from jobkit.settings import PlatformSettings, ServiceSettings
from jobkit.store.base import JobKey, JobState, Lease, Suspect
from jobkit.store.memory import MemoryStore

Do = Callable[[Context[None]], object]


class Work(Job, queue="watched"):
    """Do what the test says."""

    name: str = ""


class Fleeting(Job, queue="watched"):
    """A job that leaves no dead letter."""

    name: str = ""


class Notes(Observer):
    """Notes each event."""

    def __init__(self) -> None:
        self.told: list[Observation] = []

    def note(self, observation: Observation) -> None:
        self.told.append(observation)

    started = succeeded = failed = retried = exhausted = died = stalled = error = note


class Store(MemoryStore):
    """A store that is away for a number of calls."""

    def __init__(self) -> None:
        super().__init__()
        self.away = 0

    def complete(self, lease: Lease, result: bytes) -> bool:
        if self.away:
            self.away -= 1
            raise StoreUnavailable("no answer")
        return super().complete(lease, result)


class Stage:
    """A worker with an observer for the service, and one for ``work`` alone."""

    def __init__(self) -> None:
        self.store, self.exchange = Store(), MemoryExchange()
        self.producer = Producer.over(self.exchange)
        self.do: Do = lambda _context: None
        self.notes, self.own = Notes(), Notes()
        self.states: list[JobState | None] = []  # of the job's record, when the worker tells of an event
        self.service: Service[ServiceSettings, None] = Service(
            "watched", lifespan=lambda _: contextlib.nullcontext(), observers=[self.notes]
        )
        retry = fixed(0.005, attempts=2, retry_on=TransientError, jitter=0)
        self.service.actor(Work, retry=retry, observers=[self.own])(self._run)
        self.service.actor(Fleeting, retry=retry, dead_letter=False)(self._run)
        platform = PlatformSettings(environment="test")
        self.broker = self.service.embed(self.exchange, self.store, platform, ServiceSettings())
        self.worker = dramatiq.Worker(self.broker, worker_threads=1, worker_timeout=10)

    def _run(self, _job: Job, context: Context[None]) -> object:
        return self.do(context)

    def state(self, observation: Observation) -> JobState | None:
        run = observation.context
        record = self.store.record(JobKey(run.service, run.actor, run.job_id)) if run is not None else None
        return record.state if record is not None else None

    def crash(self, job: Work, times: int) -> Message[Any]:
        """Return a message for the job, whose workers have died so often."""
        message = message_for(job)
        key, sent_at = JobKey.of("watched", "work", message.message_id), message.message_timestamp
        brief, deadline = timedelta(milliseconds=1), time.monotonic() + 5
        for crashes in range(times):
            while not isinstance(self.store.acquire(key, str(crashes), ttl=brief, sent_at=sent_at), Lease):
                assert time.monotonic() < deadline
        while not isinstance(self.store.acquire(key, "", ttl=brief, sent_at=sent_at, alone_at=times), Suspect):
            assert time.monotonic() < deadline
        return message

    def events(self) -> list[str]:
        return [str(one.event) for one in self.notes.told]

    def until(self, *events: Event) -> None:
        """Wait until the last of the events was told; the worker has nothing left to do then."""
        deadline = time.monotonic() + 10
        while self.events()[-len(events) :] != list(events):
            assert time.monotonic() < deadline, self.events()
            time.sleep(0.005)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    class Stated(Delivery):
        def tell(self, observers: Sequence[Observer], observation: Observation) -> None:
            built.states.append(built.state(observation))
            super().tell(observers, observation)

    monkeypatch.setattr(observing, "Delivery", Stated)
    built = Stage()
    built.worker.start()
    yield built
    built.worker.stop(timeout=5_000)


def runs(*steps: Do) -> Do:
    """A job that does another step at each of its runs."""
    left = list(steps)
    return lambda context: left.pop(0)(context)


def fails(_context: Context[None]) -> object:
    raise TransientError("busy")


def refuses(_context: Context[None]) -> object:
    raise PermanentError("never")


def returns(_context: Context[None]) -> object:
    return "done"


def snoozes(_context: Context[None]) -> object:
    raise Snooze(0)


def test_a_job_that_succeeds(stage: Stage) -> None:
    stage.do = returns
    receipt = stage.producer.send(Work(name="a"))
    stage.until(Event.STARTED, Event.SUCCEEDED)
    assert stage.states == [JobState.RUNNING, JobState.DONE]
    started, succeeded = stage.notes.told
    assert (started.outcome, succeeded.outcome) == ("started", "completed")
    assert started.job == succeeded.job == Work(name="a")
    run = succeeded.context
    assert run is not None
    assert (run.service, run.queue, run.actor) == ("watched", "watched", "work")
    assert (run.job_id, run.attempt, run.crashes) == (receipt.job_id, 1, 0)
    assert run.fence > 0
    assert run.sent_at is not None
    assert run.sent_at <= started.at <= succeeded.at <= datetime.now(UTC)
    assert (succeeded.exception, succeeded.traceback, succeeded.reason, succeeded.delay) == (None, "", "", None)


def test_a_job_that_is_retried_and_whose_attempts_are_used_up(stage: Stage) -> None:
    stage.do = fails
    stage.producer.send(Work())
    stage.until(Event.DIED)
    assert stage.events() == ["started", "failed", "retried", "started", "failed", "exhausted", "died"]
    waiting, dead = JobState.WAITING, JobState.DEAD
    assert stage.states[1:3] == [waiting, waiting]
    assert stage.states[4:] == [dead, dead, dead]
    _, failed, retried, _, *last = stage.notes.told
    assert [one.context.attempt for one in stage.notes.told if one.context] == [1, 1, 1, 2, 2, 2, 2]
    assert (failed.outcome, retried.outcome, retried.reason) == ("retried", "retried", "")
    assert retried.delay == timedelta(milliseconds=5)
    assert {(one.outcome, one.reason) for one in last} == {("died", "attempts_exhausted")}
    assert all(isinstance(one.exception, TransientError) for one in (failed, retried, *last))
    assert all("raise TransientError" in one.traceback for one in (failed, retried, *last))
    assert len(stage.exchange.dead_letters("watched")) == 1


def test_a_job_that_fails_for_good(stage: Stage) -> None:
    stage.do = refuses
    stage.producer.send(Work())
    stage.until(Event.DIED)
    assert stage.events() == ["started", "failed", "died"]
    assert (stage.notes.told[-1].reason, str(stage.notes.told[-1].exception)) == ("permanent", "never")


def test_a_job_that_asks_to_run_later_has_not_failed(stage: Stage) -> None:
    stage.do = runs(snoozes, returns)
    stage.producer.send(Work())
    stage.until(Event.SUCCEEDED)
    assert stage.events() == ["started", "started", "succeeded"]


def test_a_payload_that_breaks_its_contract_is_told_as_it_came(stage: Stage) -> None:
    message = message_for(Work())
    stage.exchange.send([message.copy(kwargs={"name": ["no text"]})])
    stage.until(Event.DIED)
    assert stage.events() == ["failed", "died"]
    assert stage.notes.told[-1].job == {"name": ["no text"]}
    assert stage.notes.told[-1].reason == "bad_payload"


def test_a_job_whose_worker_died_has_stalled(stage: Stage) -> None:
    stage.do = fails
    stage.exchange.send([stage.crash(Work(name="a"), 1)])
    stage.until(Event.STALLED, Event.STARTED, Event.FAILED, Event.EXHAUSTED, Event.DIED)
    stalled = stage.notes.told[0]
    assert stalled.context is not None
    assert (stalled.outcome, stalled.context.attempt, stalled.context.crashes) == ("stalled", 2, 1)
    assert (stalled.job, stalled.exception) == (Work(name="a"), None)


def test_a_job_that_is_poison_dies_without_a_run(stage: Stage) -> None:
    stage.exchange.send([stage.crash(Work(), 3)])
    stage.until(Event.STALLED, Event.DIED)
    assert (stage.notes.told[-1].reason, stage.notes.told[-1].job) == ("poison", {"name": ""})


def test_an_outage_of_the_store_is_an_error(stage: Stage) -> None:
    stage.do, stage.store.away = returns, 3
    stage.producer.send(Work())
    stage.until(Event.STARTED, Event.ERROR, Event.SUCCEEDED)
    error = stage.notes.told[1]
    assert (error.outcome, error.job, error.context) == ("store", None, None)
    assert str(error.exception) == "no answer"


def test_the_observers_of_an_actor_are_told_of_its_jobs_alone(stage: Stage) -> None:
    stage.do = returns
    stage.producer.send(Work())
    stage.until(Event.SUCCEEDED)
    stage.producer.send(Fleeting())
    stage.until(Event.STARTED, Event.SUCCEEDED, Event.STARTED, Event.SUCCEEDED)
    assert [one.job for one in stage.own.told] == [Work(), Work()]


def test_what_a_run_had_in_memory_is_not_kept_by_its_exception(stage: Stage) -> None:
    def fails_first(_context: Context[None]) -> object:
        raise ValueError("inner")

    def fails_next(context: Context[None]) -> object:
        try:
            return fails_first(context)
        except ValueError as inner:
            raise ExceptionGroup("many", [TransientError("one"), KeyError("two")]) from inner

    def fails_of_many(context: Context[None]) -> object:
        try:
            return fails_next(context)
        except ExceptionGroup as group:
            raise PermanentError("outer") from group

    stage.do = fails_of_many
    stage.producer.send(Work())
    stage.until(Event.DIED)
    outer = stage.notes.told[-1].exception
    assert isinstance(outer, PermanentError)
    assert all(text in stage.notes.told[-1].traceback for text in ("inner", "many", "outer"))
    group = outer.__cause__
    assert isinstance(group, ExceptionGroup)
    tracebacks: list[TracebackType | None] = [
        one.__traceback__ for one in (outer, group, *group.exceptions, group.__cause__) if one is not None
    ]
    assert tracebacks == [None] * 5


def test_a_hook_that_raises_or_hangs_harms_no_job(stage: Stage) -> None:
    class Bad(Observer):
        def started(self, observation: Observation) -> None:
            raise SystemExit

        def succeeded(self, observation: Observation) -> None:
            go_on.wait(20)

    go_on = threading.Event()
    stage.service.observers.insert(0, Bad())
    bad = stage.service.embed(stage.exchange, stage.store, PlatformSettings(environment="test"), ServiceSettings())
    worker = dramatiq.Worker(bad, worker_threads=1, worker_timeout=10)
    worker.start()
    stage.do = returns
    receipts = [stage.producer.send(Work(name=str(number))) for number in range(20)]
    deadline = time.monotonic() + 10
    while not all(_is_done(stage, receipt) for receipt in receipts):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    go_on.set()
    worker.stop(timeout=5_000)
    assert stage.events().count("succeeded") == 20


def _is_done(stage: Stage, receipt: Receipt) -> bool:
    record = stage.store.record(JobKey.of(receipt.queue, receipt.actor, receipt.job_id))
    return record is not None and record.state is JobState.DONE


def test_an_actor_without_dead_letters_counts_logs_and_drops(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    counted: list[tuple[str, str, str]] = []
    monkeypatch.setattr(telemetry, "job_dropped", lambda *details: counted.append(details))
    stage.do = refuses
    stage.producer.send(Fleeting(name="a"), key="a")
    stage.until(Event.DIED)
    assert (stage.states[-1], stage.exchange.dead_letters("watched")) == (JobState.DEAD, [])
    assert counted == [("watched", "fleeting", "permanent")]
    [line] = [record for record in caplog.records if record.name == "jobkit.jobs" and record.levelname == "ERROR"]
    assert line.getMessage() == "job died (permanent), dropped without a dead letter: never"
    assert line.exc_info is not None
    assert line.exc_info[2] is not None, "nothing else keeps the traceback"
    stage.do = returns
    stage.producer.send(Fleeting(name="a"), key="a")  # sent again, it runs again
    stage.until(Event.SUCCEEDED)
    stage.do = fails
    stage.producer.send(Fleeting())
    stage.until(Event.EXHAUSTED, Event.DIED)
    assert counted[1:] == [("watched", "fleeting", "attempts_exhausted")]
