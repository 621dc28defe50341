"""A periodic job has one set of defaults for each tick, in whichever run of it."""

import contextlib
import json
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta

import dramatiq
import pytest
from pydantic import BaseModel, Field, field_validator, model_validator

from jobkit.broker.memory import MemoryExchange
from jobkit.context import Context
from jobkit.contracts import Job, PayloadChanged, Tick, due_time
from jobkit.contracts.payload import payload_of
from jobkit.errors import StoreUnavailable, TransientError
from jobkit.producer import Producer
from jobkit.retry import fixed
from jobkit.schedule import cron
from jobkit.schedule.schedule import Schedule
from jobkit.service import Service
from jobkit.settings import PlatformSettings, ServiceSettings
from jobkit.store.base import JobKey, JobRecord, JobState, Lease
from jobkit.store.memory import MemoryStore

DUE = datetime(2026, 3, 1, 23, 59, tzinfo=UTC)
WAIT = 0.005  # seconds until a retry


class Calendar:
    """What ``date.today`` would say."""

    today = date(2026, 3, 1)


class Window(BaseModel):
    """What a report is about."""

    until: date = Field(default_factory=lambda: Calendar.today)


class Report(Job, queue="reports"):
    """A report whose defaults differ at each call."""

    day: date = Field(default_factory=lambda: Calendar.today, alias="for_day")
    run: uuid.UUID = Field(default_factory=uuid.uuid4)
    due: datetime = Field(default_factory=due_time)
    window: Window = Field(default_factory=Window)
    stamp: str = ""
    pages: int = 7

    @model_validator(mode="before")
    @classmethod
    def _stamped(cls, data: object) -> object:
        return {"stamp": str(uuid.uuid4()), **data} if isinstance(data, dict) else data


class Plain(Job, queue="reports"):
    """A job whose defaults never differ."""

    days: int = 30


class Store(MemoryStore):
    """Counts what is remembered, and is away on demand."""

    def __init__(self) -> None:
        super().__init__()
        self.remembered = self.lost = 0
        self.outages: list[Exception] = []

    def remember(self, lease: Lease, name: str, value: bytes) -> bytes | None:
        if self.outages:
            raise self.outages.pop(0)
        if self.lost:
            self.lost -= 1
            return None
        self.remembered += 1
        return super().remember(lease, name, value)


class Stage:
    """One service with periodic jobs, and what their runs were given."""

    def __init__(self) -> None:
        self.exchange, self.store = MemoryExchange(), Store()
        self.runs: list[Job] = []
        self.ticks: list[Tick | None] = []
        self.told: list[datetime] = []
        self.do: Callable[[int], None] = lambda _run: None
        self.service: Service[ServiceSettings, None] = Service(
            "reports", lifespan=lambda _settings: contextlib.nullcontext()
        )
        retry = fixed(WAIT, attempts=3, retry_on=TransientError)
        self.service.actor(Report, retry=retry, periodic=cron("59 23 * * *"))(self._run)
        self.service.actor(Plain, retry=retry, periodic=cron("59 23 * * *"))(self._run)
        broker = self.service.embed(self.exchange, self.store, PlatformSettings(environment="test"), ServiceSettings())
        self.worker = dramatiq.Worker(broker, worker_threads=2, worker_timeout=10)

    def _run(self, job: Job, context: Context[None]) -> None:
        self.runs.append(job)
        self.ticks.append(context.tick)
        self.told.append(due_time())
        self.do(len(self.runs))

    def fire(self, contract: type[Job] = Report) -> JobKey:
        """Send the job of a tick as a scheduler does, which knows no contract."""
        announced = Schedule.read(asdict(Schedule.of("reports", contract, cron("59 23 * * *"))))
        message = announced.message(DUE)
        assert message.kwargs == {}
        self.exchange.send([message])
        return JobKey("reports", message.actor_name, message.message_id)

    def wait(self, job: JobKey, state: JobState) -> JobRecord:
        found: list[JobRecord] = []

        def stands() -> bool:
            record = self.store.record(job)
            found[:] = [record] if record else []
            return record is not None and record.state is state

        until(stands)
        return found[0]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 8
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.002)


@pytest.fixture
def stage() -> Iterator[Stage]:
    Calendar.today = date(2026, 3, 1)
    built = Stage()
    built.worker.start()
    yield built
    built.worker.stop(timeout=5_000)


def tomorrow_after_failing(times: int) -> Callable[[int], None]:
    def do(run: int) -> None:
        Calendar.today = date(2026, 3, 1 + run)
        if run <= times:
            raise TransientError("no")

    return do


def test_a_retry_after_midnight_has_the_defaults_of_its_tick(stage: Stage) -> None:
    stage.do = tomorrow_after_failing(2)
    stage.wait(stage.fire(), JobState.DONE)
    first, *later = stage.runs
    assert isinstance(first, Report)
    assert (first.day, first.window.until, first.due, first.pages) == (date(2026, 3, 1), date(2026, 3, 1), DUE, 7)
    assert later == [first, first]
    assert stage.store.remembered == 1, "copies carry them"


def test_a_redelivery_after_a_crash_has_the_defaults_of_the_first_run(stage: Stage) -> None:
    crashed = Report(for_day=date(2026, 2, 27))
    announced = Schedule.read(asdict(Schedule.of("reports", Report, cron("59 23 * * *"))))
    message = announced.message(DUE)
    job = JobKey("reports", "report", message.message_id)
    lease = stage.store.acquire(job, "dead", ttl=timedelta(milliseconds=1), sent_at=message.message_timestamp)
    assert isinstance(lease, Lease)
    assert stage.store.remember(lease, "", json.dumps(payload_of(crashed)).encode())
    stage.fire()
    assert stage.wait(job, JobState.DONE).crashes == 1
    assert stage.runs == [crashed]


def test_a_run_that_has_lost_its_lease_makes_no_defaults(stage: Stage) -> None:
    stage.store.lost = 1
    stage.wait(stage.fire(), JobState.DONE)
    assert len(stage.runs) == 1


def test_a_dead_letter_has_the_defaults_of_its_tick(stage: Stage) -> None:
    stage.do = tomorrow_after_failing(3)
    stage.wait(stage.fire(), JobState.DEAD)
    [letter] = stage.exchange.dead_letters("reports")
    assert Report.model_validate(letter.message.kwargs) == stage.runs[0]


def test_each_tick_has_defaults_of_its_own(stage: Stage) -> None:
    stage.wait(stage.fire(), JobState.DONE)
    Calendar.today = date(2026, 3, 2)
    announced = Schedule.read(asdict(Schedule.of("reports", Report, cron("59 23 * * *"))))
    message = announced.message(DUE + timedelta(days=1))
    stage.exchange.send([message])
    stage.wait(JobKey("reports", "report", message.message_id), JobState.DONE)
    one, other = stage.runs
    assert isinstance(one, Report)
    assert isinstance(other, Report)
    assert (one.day, other.day) == (date(2026, 3, 1), date(2026, 3, 2))
    assert (one.run, one.stamp) != (other.run, other.stamp)
    assert other.due == DUE + timedelta(days=1)


def test_no_job_runs_while_its_defaults_cannot_be_stored(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobkit.waits.FIRST_WAIT", timedelta(milliseconds=5))
    stage.store.outages = [StoreUnavailable("away")]
    record = stage.wait(stage.fire(), JobState.DONE)
    assert record.attempt == 1
    assert len(stage.runs) == 1


def test_a_job_whose_defaults_never_differ_asks_the_store_nothing_more(stage: Stage) -> None:
    stage.wait(stage.fire(Plain), JobState.DONE)
    assert stage.runs == [Plain(days=30)]
    assert stage.store.remembered == 0


def test_the_context_names_the_tick_and_the_clock_of_the_job_stands_at_it(stage: Stage) -> None:
    job = stage.fire()
    stage.wait(job, JobState.DONE)
    [tick] = stage.ticks
    assert tick == Tick("reports.report", DUE)
    assert tick is not None
    assert tick.id == job.id
    assert stage.told == [DUE]


def test_a_job_that_somebody_sent_has_no_tick(stage: Stage) -> None:
    receipt = Producer.over(stage.exchange).send(Plain(days=1))
    stage.wait(JobKey("reports", "plain", receipt.job_id), JobState.DONE)
    assert stage.ticks == [None]
    assert abs(stage.told[0] - datetime.now(UTC)) < timedelta(minutes=1)


class Cents(Job, queue="reports"):
    """A validator that changes what it gets."""

    run: uuid.UUID = Field(default_factory=uuid.uuid4)
    amount: int = Field(default=5, validate_default=True)

    @field_validator("amount")
    @classmethod
    def _in_cents(cls, value: int) -> int:
        return 100 * value


def test_a_periodic_job_whose_defaults_do_not_survive_the_wire_is_refused_at_its_declaration(stage: Stage) -> None:
    with pytest.raises(PayloadChanged, match=r"Cents\.amount"):
        stage.service.actor(Cents, periodic=cron("@daily"))
