"""A worker whose jobs depend on something that is down."""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import dramatiq
import pytest
from dramatiq import Message
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, NumberDataPoint

from jobkit import telemetry
from jobkit.breaker.breaker import CircuitBreaker
from jobkit.broker.memory import MemoryExchange
from jobkit.context import Context
from jobkit.contracts import Job
from jobkit.errors import PermanentError, TransientError
from jobkit.retry import fixed, never
from jobkit.service import Service
from jobkit.settings import PlatformSettings, ServiceSettings
from jobkit.store.base import JobKey, JobRecord, JobState
from jobkit.store.memory import MemoryStore
from jobkit.time import seconds

FAILURES = 3


class ServerDown(TransientError):
    """The server that all jobs need is down."""


class Call(Job, queue="calls"):
    """Ask the server."""

    name: str


class CallOnce(Job, queue="calls"):
    """Ask the server, at most once."""

    name: str


class Unrelated(Job, queue="calls"):
    """Needs no server."""

    name: str


@dataclass
class Server:
    """What the jobs depend on."""

    up: bool = True
    runs: list[tuple[str, int, float]] = field(default_factory=list)
    answer: Callable[[str], None] = lambda _name: None

    def ask(self, name: str, attempt: int) -> None:
        self.runs.append((name, attempt, time.monotonic()))
        if not self.up:
            raise ServerDown("no answer")
        self.answer(name)

    def attempts(self) -> Counter[int]:
        return Counter(attempt for _, attempt, _ in self.runs)


class Stage:
    """A worker in this process, with queues and records in memory."""

    def __init__(self) -> None:
        self.server, self.store, self.exchange = Server(), MemoryStore(), MemoryExchange()
        platform, settings = PlatformSettings(environment="test"), ServiceSettings()
        broker = self._service().embed(self.exchange, self.store, platform, settings)
        self.worker = dramatiq.Worker(broker, worker_threads=4, worker_timeout=10)
        self.ids: dict[str, JobKey] = {}

    def _service(self) -> "Service[ServiceSettings, Server]":
        @contextlib.contextmanager
        def connect(_settings: ServiceSettings) -> Iterator[Server]:
            yield self.server

        service: Service[ServiceSettings, Server] = Service("calls", lifespan=connect)
        breaker = CircuitBreaker("server", failures=FAILURES, pause=seconds(1), longest=seconds(2), trips_on=ServerDown)

        @service.actor(Call, retry=fixed(0.01, attempts=3), breaker=breaker)
        def call(job: Call, context: Context[Server]) -> None:
            context.resources.ask(job.name, context.attempt)

        @service.actor(CallOnce, retry=never(), breaker=breaker)
        def call_once(job: CallOnce, context: Context[Server]) -> None:
            context.resources.ask(job.name, context.attempt)

        @service.actor(Unrelated)
        def unrelated(job: Unrelated, context: Context[Server]) -> None:
            context.resources.runs.append((job.name, context.attempt, time.monotonic()))

        return service

    def send(self, *jobs: Call | CallOnce | Unrelated, sent_at: int = 0) -> None:
        for job in jobs:
            self.ids[job.name] = JobKey.of(job.queue, job.actor, job.name)
            sent = sent_at or int(time.time() * 1000)
            message: Message[object] = Message(job.queue, job.actor, (), job.model_dump(), {}, job.name, sent)
            self.exchange.send([message])

    def records(self) -> list[JobRecord]:
        return [record for key in self.ids.values() if (record := self.store.record(key)) is not None]

    def states(self) -> Counter[str]:
        records = [self.store.record(key) for key in self.ids.values()]
        return Counter(record.state.value if record else "unknown" for record in records)

    def until(self, condition: Callable[[], bool], limit: float = 20) -> None:
        deadline = time.monotonic() + limit
        while not condition():
            assert time.monotonic() < deadline, (self.states(), self.server.runs[-20:])
            time.sleep(0.01)

    def all_done(self) -> bool:
        return self.states() == {JobState.DONE: len(self.ids)}


@pytest.fixture
def stage() -> Iterator[Stage]:
    built = Stage()
    built.worker.start()
    yield built
    built.worker.stop()


def open_breaker(stage: Stage, job: type[Call] | type[CallOnce] = Call, sent_at: int = 0) -> None:
    """Let as many jobs fail as it takes, at the same time, so that each has used up one attempt at most."""
    together = threading.Barrier(FAILURES)

    def fail_together(_name: str) -> None:
        together.wait(5)
        stage.server.up = False  # at once, as one of them may be retried before the test looks
        raise ServerDown("no answer")

    stage.server.answer = fail_together
    stage.send(*(job(name=f"first-{n}") for n in range(FAILURES)), sent_at=sent_at)
    # Their ends are recorded after the breaker was told of them.
    stage.until(
        lambda: not stage.server.up and stage.states()[JobState.WAITING] + stage.states()[JobState.DEAD] >= FAILURES
    )
    stage.server.answer = lambda _name: None


def test_while_the_dependency_is_down_jobs_wait_with_all_their_attempts(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "jobkit")
    open_breaker(stage)
    stage.send(*(Call(name=f"later-{n}") for n in range(30)))
    stage.until(lambda: stage.states()[JobState.WAITING] >= 30)
    # Three probes have failed by now, a second, two and two apart; each job of the second lot was one at most.
    stage.until(lambda: len(stage.server.runs) >= FAILURES + 3)
    assert len(stage.server.runs) <= FAILURES + 5, "the others did not try their luck"
    stage.server.up = True
    stage.until(stage.all_done)
    later = [attempt for name, attempt, _ in stage.server.runs if name.startswith("later")]
    assert set(later) == {1}, "nobody has lost an attempt to the outage"
    text = caplog.text
    assert "breaker server is open for 1 s: 3 jobs have failed, the last by ServerDown" in text
    assert "breaker server is open for 2 s: its probe has failed" in text
    assert "breaker server is closed; runs postponed here: " in text
    postponed = int(text.split("runs postponed here: ")[1].split()[0])
    assert postponed >= 29
    lines = [line for line in text.splitlines() if "jobkit.jobs" in line or "breaker server" in line]
    told = [line for line in lines if "job completed" not in line and "runs again" in line]
    assert len(told) <= FAILURES + 4, "a line for each job that failed, none for each that waits"


def test_a_job_that_waits_for_a_breaker_says_so(stage: Stage) -> None:
    open_breaker(stage)
    stage.send(Call(name="later"))
    stage.until(lambda: "breaker server is open" in {record.waits_for for record in stage.records()})
    stage.server.up = True
    stage.until(stage.all_done)
    assert {record.waits_for for record in stage.records()} == {""}


def test_jobs_that_do_not_depend_on_it_go_on(stage: Stage) -> None:
    open_breaker(stage)
    stage.send(*(Call(name=f"later-{n}") for n in range(10)))
    stage.send(Unrelated(name="unrelated"))
    stage.until(lambda: "unrelated" in {name for name, _, _ in stage.server.runs}, limit=5)
    assert not stage.server.up


def test_a_single_job_that_fails_does_not_stop_the_others(stage: Stage) -> None:
    def answer(name: str) -> None:
        if name == "bad":
            raise ServerDown("for this one")

    stage.server.answer = answer
    stage.send(Call(name="bad"))
    stage.until(lambda: stage.states() == {JobState.DEAD: 1})
    stage.send(Call(name="good"))
    stage.until(lambda: stage.states()[JobState.DONE] == 1, limit=5)
    assert [attempt for name, attempt, _ in stage.server.runs if name == "bad"] == [1, 2, 3]


def test_a_probe_that_fails_for_a_reason_of_its_own_closes_the_breaker(stage: Stage) -> None:
    open_breaker(stage)

    def refuse(_name: str) -> None:
        raise PermanentError("this one not")

    stage.server.up, stage.server.answer = True, refuse
    stage.until(lambda: stage.states()[JobState.DEAD] >= 1)
    stage.server.answer = lambda _name: None
    stage.until(lambda: stage.states()[JobState.WAITING] + stage.states()[JobState.RUNNING] == 0)


def test_a_job_that_must_not_be_repeated_is_not_excused(stage: Stage) -> None:
    open_breaker(stage, CallOnce)
    stage.until(lambda: stage.states() == {JobState.DEAD: FAILURES})
    assert stage.server.attempts() == {1: FAILURES}


def test_a_job_that_is_as_old_as_a_record_may_be_uses_up_its_attempts(stage: Stage) -> None:
    yesterday = int(time.time() * 1000) - 86_400_000
    open_breaker(stage, sent_at=yesterday)
    stage.until(lambda: stage.states()[JobState.DEAD] >= 1)


def test_two_breakers_of_one_name_that_differ_are_refused() -> None:
    service: Service[ServiceSettings, None] = Service("calls", lifespan=lambda _: contextlib.nullcontext())
    service.actor(Call, breaker=CircuitBreaker("server"))(lambda _job, _context: None)
    service.actor(CallOnce, breaker=CircuitBreaker("another", failures=7))(lambda _job, _context: None)
    with pytest.raises(TypeError, match="two breakers named 'server'"):
        service.actor(Unrelated, breaker=CircuitBreaker("server", failures=7))


def test_a_breaker_shows_in_the_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = InMemoryMetricReader()
    meter = MeterProvider([reader]).get_meter("test")
    monkeypatch.setattr(telemetry, "_meter", meter)
    monkeypatch.setattr(telemetry, "_breaker_changes", meter.create_counter("jobkit.breaker.changes"))
    stage = Stage()
    stage.worker.start()
    try:
        open_breaker(stage)
        stage.until(lambda: points(reader)["jobkit.breaker.open", ""] == 1)
        stage.server.up = True
        stage.until(stage.all_done)
        found = points(reader)
    finally:
        stage.worker.stop()
    assert found["jobkit.breaker.open", ""] == 0
    assert found["jobkit.breaker.changes", "open"] == found["jobkit.breaker.changes", "closed"] >= 1


def points(reader: InMemoryMetricReader) -> Counter[tuple[str, str]]:
    """The value of each metric by its name and the state that it tells of; all are of one breaker."""
    data, found = reader.get_metrics_data(), Counter[tuple[str, str]]()
    for resource in data.resource_metrics if data else []:
        for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
            for point in metric.data.data_points:
                if isinstance(point, NumberDataPoint) and point.attributes:
                    assert point.attributes["jobkit.breaker"] == "calls/server"
                    state = str(point.attributes.get("jobkit.breaker.state", ""))
                    found[metric.name, state] += int(point.value)
    return found
