"""Observers that are wrong are refused, and those that are slow, raise or hang harm nothing."""

import logging
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from jobkit import telemetry
from jobkit.broker.connection import ConnectionSettings
from jobkit.broker.memory import MemoryExchange
from jobkit.broker.rabbitmq import JobBroker
from jobkit.contracts import Job
from jobkit.deadletters import Failure, Reason
from jobkit.errors import BrokerUnavailable, StoreUnavailable, TopologyMismatch, Undecodable
from jobkit.middleware import observing
from jobkit.middleware.observing import Observing
from jobkit.observers import Event, Observation, Observer
from jobkit.observers.delivery import MOST_WAITING, Delivery
from jobkit.service import Service
from jobkit.settings import PlatformSettings, ServiceSettings
from jobkit.store.memory import MemoryStore


class Notes(Observer):
    """Notes what it is told of jobs that died and of errors."""

    def __init__(self) -> None:
        self.told: list[Observation] = []

    def died(self, observation: Observation) -> None:
        self.told.append(observation)

    def error(self, observation: Observation) -> None:
        self.told.append(observation)


class Hangs(Notes):
    """Comes back only when it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.hangs, self.go_on = threading.Event(), threading.Event()

    def died(self, observation: Observation) -> None:
        self.hangs.set()
        self.go_on.wait(20)
        super().died(observation)


def observation(outcome: str = "died") -> Observation:
    return Observation(Event.DIED, outcome, datetime.now(UTC))


@pytest.fixture
def hanging() -> Iterator[Hangs]:
    observer = Hangs()
    yield observer
    observer.go_on.set()


@pytest.fixture
def dropped(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The events that the metric has counted."""
    events: list[str] = []
    monkeypatch.setattr(telemetry, "observation_dropped", events.append)
    return events


def nothing(_settings: ServiceSettings) -> AbstractContextManager[None]:
    return nullcontext()


class Silent(Observer):
    """A misspelt name is no event."""

    def on_died(self, observation: Observation) -> None: ...


class Undone(Observer):
    """Calling it would not run it."""

    async def died(self, observation: Observation) -> None: ...  # type: ignore[override]  # the mistake that is tried


class Ring(Job, queue="doors"):
    """A job."""


@pytest.mark.parametrize(
    ("observer", "complaint"),
    [
        (Notes, r"has a class: make one, Notes\(\)"),
        (print, "derive from jobkit.observers.Observer"),
        (Silent(), "Silent observes nothing: define one of started, succeeded"),
        (Undone(), r"Undone.died must be a plain function: .* an async function"),
    ],
)
def test_an_observer_that_would_never_be_told_is_refused(observer: Observer, complaint: str) -> None:
    with pytest.raises(TypeError, match=complaint):
        Service("doors", lifespan=nothing, observers=[observer])
    with pytest.raises(TypeError, match=complaint):
        Service("doors", lifespan=nothing).actor(Ring, observers=[observer])


def test_what_is_told_arrives_in_its_order_before_the_end() -> None:
    delivery, notes, others = Delivery(), Notes(), Notes()
    told = [observation() for _ in range(100)]
    delivery.tell([notes], told[0])  # before the worker has booted
    delivery.start()
    for one in told[1:]:
        delivery.tell([notes, others], one)
    delivery.stop(10)
    assert notes.told == told
    assert others.told == told[1:]


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), KeyboardInterrupt()])
def test_an_observer_that_raises_is_logged_and_keeps_nobody_from_being_told(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    class Raises(Observer):
        def died(self, observation: Observation) -> None:
            raise error

    delivery, notes = Delivery(), Notes()
    delivery.start()
    for _ in range(2):
        delivery.tell([Raises(), notes], observation())
    delivery.stop(10)
    assert len(notes.told) == 2
    assert [r.getMessage() for r in caplog.records] == ["Raises could not be told: died"] * 2
    assert all(r.exc_info is not None and r.exc_info[1] is error for r in caplog.records)


def test_what_does_not_fit_is_dropped_counted_and_logged_once(
    hanging: Hangs, dropped: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    delivery = Delivery()
    delivery.start()
    delivery.tell([hanging], observation())
    assert hanging.hangs.wait(5)
    for number in range(MOST_WAITING + 7):
        delivery.tell([hanging], observation(str(number)))
    assert dropped == ["died"] * 7
    assert len(caplog.records) == 1
    assert "1000 events wait" in caplog.text
    hanging.go_on.set()
    delivery.stop(10)
    assert [one.outcome for one in hanging.told] == ["died", *(str(number) for number in range(MOST_WAITING))]


def test_an_observer_that_hangs_does_not_hold_up_the_end(
    hanging: Hangs, dropped: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    delivery = Delivery()
    delivery.start()
    for _ in range(4):
        delivery.tell([hanging], observation())
    assert hanging.hangs.wait(5)
    delivery.stop(0.05)
    assert dropped == ["died"] * 3
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "the last events, up to 3, are lost" in caplog.text


class At(Delivery):
    """Tells at once."""

    def tell(self, observers: object, observation: Observation) -> None:
        for observer in observers:  # type: ignore[attr-defined]  # a sequence
            self._call(observer, observation)


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def tells(notes: Notes, monkeypatch: pytest.MonkeyPatch) -> Observing:
    monkeypatch.setattr(observing, "Delivery", At)
    return Observing([notes], {})


def test_an_error_that_lasts_is_told_once_and_its_return_again(
    tells: Observing, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(observing, "time", SimpleNamespace(monotonic=lambda: now))
    for now in [0.0, 2.0, 61.0, 90.0, 151.0, 152.0]:
        tells.error(StoreUnavailable(f"no answer at {now}"))
    assert [str(one.exception) for one in notes.told] == ["no answer at 0.0", "no answer at 151.0"]


def test_an_error_is_told_with_its_place(tells: Observing, notes: Notes) -> None:
    errors = [StoreUnavailable("store"), BrokerUnavailable("broker"), TopologyMismatch("topology")]
    for error in errors:
        tells.error(error)
    assert [(one.event, one.outcome, one.exception) for one in notes.told] == [
        (Event.ERROR, str(error), error) for error in errors
    ]
    assert all(one.job is None and one.context is None for one in notes.told)


@pytest.fixture
def broker(tells: Observing) -> JobBroker:
    built = JobBroker(ConnectionSettings(["amqp://localhost"]), Mock())
    tells.before_worker_boot(built, None)
    return built


def test_what_a_consumer_meets_is_told(broker: JobBroker, notes: Notes, monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[int] = []
    monkeypatch.setattr("jobkit.broker.rabbitmq.os.kill", lambda _pid, number: killed.append(number))
    broker.report_outage(ConnectionRefusedError(111, "refused"), first=True)
    broker.give_up(TopologyMismatch("queue 'doors' exists with other arguments"))
    assert [one.outcome for one in notes.told] == ["broker", "topology"]
    assert isinstance(notes.told[0].exception, BrokerUnavailable)
    assert "localhost" in str(notes.told[0].exception)
    assert len(killed) == 1


def test_a_message_that_no_actor_sees_dies_with_what_is_known_of_it(broker: JobBroker, notes: Notes) -> None:
    error = Undecodable("the body is not JSON")
    failure = Failure.of(error, Reason.UNDECODABLE, actor="ring", queue="doors.high", died_at=1)
    broker.report_death(error, failure, Mock(type="ring", message_id="m-1", headers=None))
    [told] = notes.told
    assert (told.event, told.outcome, told.reason, told.exception) == (Event.DIED, "died", "undecodable", error)
    assert told.context is not None
    assert (told.context.service, told.context.queue, told.context.actor) == ("doors", "doors.high", "ring")
    assert (told.context.job_id, told.context.attempt, told.job) == ("m-1", 0, None)
    assert "Undecodable" in told.traceback


def test_without_observers_nothing_is_added_to_a_worker() -> None:
    def names(service: Service[ServiceSettings, None]) -> set[str]:
        platform = PlatformSettings(environment="test")
        broker = service.embed(MemoryExchange(), MemoryStore(), platform, ServiceSettings())
        return {type(one).__name__ for one in broker.middleware}

    service, watched = Service("doors", lifespan=nothing), Service("doors", lifespan=nothing)
    watched.actor(Ring, observers=[Notes()])(lambda _job, _context: None)
    assert names(watched) - names(service) == {"Observing"}
