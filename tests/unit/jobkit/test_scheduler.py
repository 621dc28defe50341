"""Ticks become jobs: each once, whoever sends them, and none for an outage."""

import contextlib
import json
import logging
import threading
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from dramatiq import Message
from dramatiq.brokers.stub import StubBroker
from pydantic import Field

from jobkit.contracts import Job, Tick, due_time
from jobkit.errors import (
    AccessRefused,
    BrokerUnavailable,
    JobkitError,
    SendError,
    SettingsError,
    StoreRefused,
    StoreUnavailable,
    Unroutable,
)
from jobkit.refusals import Refusals
from jobkit.schedule.announce import Announce
from jobkit.schedule.cron import cron
from jobkit.schedule.registry import MemorySchedules
from jobkit.schedule.schedule import Schedule
from jobkit.schedule.scheduler import Scheduler
from jobkit.service import Service
from jobkit.settings import PlatformSettings, ServiceSettings

NOON = datetime(2026, 11, 23, 12, 0, 30, tzinfo=UTC)


class Clean(Job, queue="files", version=2):
    """Remove what nobody needs."""

    older_than_days: int = 30


class Named(Job, queue="files"):
    """A job that cannot run without being told more."""

    name: str


class Report(Job, queue="files"):
    """A job whose defaults belong to the day on which it is due."""

    day: date = Field(default_factory=lambda: due_time().date())
    run: str = Field(default_factory=lambda: str(uuid.uuid4()))


class Clock:
    """Stands still until it is moved."""

    def __init__(self, now: datetime = NOON) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


class Stop(threading.Event):
    """Set after so many looks; nobody waits."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self._looks = looks
        self.pauses: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.pauses.append(timeout)
        if len(self.pauses) == self._looks:
            self.set()
        return self.is_set()


class Outbox:
    """Keeps what was sent, and refuses as told."""

    def __init__(self) -> None:
        self.messages: list[Message[Any]] = []
        self.refusals: list[SendError] = []

    def send(self, messages: Sequence[Message[Any]], *, delay: timedelta = timedelta()) -> None:
        assert not delay
        if self.refusals:
            raise self.refusals.pop(0)
        self.messages += messages

    def close(self) -> None: ...

    @property
    def ticks(self) -> list[str]:
        return [message.options["tick"] for message in self.messages]


def schedule(spec: str = "*/10 * * * *", zone: str = "UTC") -> Schedule:
    return Schedule.of("files", Clean, cron(spec, zone))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registry() -> MemorySchedules:
    built = MemorySchedules()
    built.announce("files", [schedule()], NOON)
    return built


@pytest.fixture
def outbox() -> Outbox:
    return Outbox()


@pytest.fixture
def scheduler(registry: MemorySchedules, outbox: Outbox, clock: Clock) -> Scheduler:
    return Scheduler(registry, outbox, clock)


def test_a_due_tick_is_sent_once_as_an_ordinary_job(scheduler: Scheduler, outbox: Outbox, clock: Clock) -> None:
    assert scheduler.fire_due() == 0
    clock.now = datetime(2026, 11, 23, 12, 10, tzinfo=UTC)
    assert scheduler.fire_due() == 1
    clock.now += timedelta(seconds=59)
    assert scheduler.fire_due() == 0
    (message,) = outbox.messages
    assert (message.queue_name, message.actor_name) == ("files", "clean")
    assert message.kwargs == {"older_than_days": 30}
    assert message.options["contract_version"] == 2
    assert message.message_timestamp == int(datetime(2026, 11, 23, 12, 10, tzinfo=UTC).timestamp() * 1000)


def test_each_tick_of_an_hour_is_sent_in_turn(scheduler: Scheduler, outbox: Outbox, clock: Clock) -> None:
    for _ in range(60):
        clock.now += timedelta(minutes=1)
        scheduler.fire_due()
    clock_times = ["12:10", "12:20", "12:30", "12:40", "12:50", "13:00"]
    assert outbox.ticks == [f"2026-11-23T{clock_time}:00+00:00" for clock_time in clock_times]


def test_two_schedulers_send_the_same_job_for_a_tick(clock: Clock) -> None:
    outboxes = [Outbox(), Outbox()]
    for outbox in outboxes:  # two registries, as if both had read the last tick before either had noted the next
        registry = MemorySchedules()
        registry.announce("files", [schedule()], NOON)
        for _ in range(3):
            clock.now += timedelta(minutes=10)
            Scheduler(registry, outbox, clock).fire_due()
        clock.now = NOON
    assert [m.asdict() for m in outboxes[0].messages] == [m.asdict() for m in outboxes[1].messages]
    assert len({message.message_id for message in outboxes[0].messages}) == 3


def test_schedules_that_share_a_tick_send_jobs_of_their_own(clock: Clock) -> None:
    tick = datetime(2026, 11, 23, 12, 10, tzinfo=UTC)
    other = Schedule.of("archive", Clean, cron("*/10 * * * *"))
    assert schedule().message(tick).message_id != other.message(tick).message_id
    assert schedule().message(tick).message_id == schedule().message(tick.astimezone()).message_id


def test_of_missed_ticks_the_latest_is_made_up_for_once(
    scheduler: Scheduler, outbox: Outbox, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    clock.now = NOON + timedelta(hours=5)
    assert scheduler.fire_due() == 1
    assert scheduler.fire_due() == 0
    assert outbox.ticks == ["2026-11-23T17:00:00+00:00"]
    assert any("last of 30 missed ticks" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    ("misfire", "now", "sent"),
    [
        (timedelta(days=1), datetime(2026, 11, 25, 6, 1, tzinfo=UTC), 0),
        (timedelta(days=1), datetime(2026, 11, 25, 5, 59, tzinfo=UTC), 1),
        (timedelta(hours=2), datetime(2026, 11, 24, 8, 1, tzinfo=UTC), 0),
        (timedelta(hours=2), datetime(2026, 11, 24, 7, 59, tzinfo=UTC), 1),
        (timedelta(days=7), datetime(2026, 11, 30, 6, 0, tzinfo=UTC), 1),
    ],
)
def test_each_schedule_has_its_own_misfire_limit_and_a_skipped_tick_is_named_once(
    outbox: Outbox, clock: Clock, caplog: pytest.LogCaptureFixture, misfire: timedelta, now: datetime, sent: int
) -> None:
    registry = MemorySchedules()
    written = cron("0 6 24 11 *", misfire=misfire)
    registry.announce("files", [Schedule.of("files", Clean, written)], NOON)
    clock.now = now
    scheduler = Scheduler(registry, outbox, clock)
    assert [scheduler.fire_due() for _ in range(3)] == [sent, 0, 0]
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1 - sent
    assert all("2026-11-24T06:00:00+00:00" in one and str(misfire) in one for one in warnings)


def test_of_many_skipped_ticks_one_line_names_the_first_and_the_last(
    scheduler: Scheduler, outbox: Outbox, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    clock.now = NOON + timedelta(days=2)
    assert scheduler.fire_due() == 1
    [line] = [r.getMessage() for r in caplog.records if "skipped" in r.getMessage()]
    assert "2026-11-23T12:10:00" in line
    assert "2026-11-24T12:00:00" in line
    assert outbox.ticks == ["2026-11-25T12:00:00+00:00"]


@pytest.mark.parametrize("ahead", [timedelta(hours=1), timedelta(days=365), timedelta(days=3650)])
@pytest.mark.parametrize("looks", [1, 5])
def test_a_clock_that_was_ahead_stops_no_schedule(
    scheduler: Scheduler,
    outbox: Outbox,
    registry: MemorySchedules,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    ahead: timedelta,
    looks: int,
) -> None:
    for _ in range(looks):
        clock.now = NOON + ahead
        scheduler.fire_due()
        ahead += timedelta(minutes=10)
    outbox.messages.clear()
    for minute in range(1, 61):
        clock.now = NOON + timedelta(minutes=minute)
        registry.announce("files", [schedule()], clock.now)
        scheduler.fire_due()
    assert [tick[11:16] for tick in outbox.ticks] == ["12:10", "12:20", "12:30", "12:40", "12:50", "13:00"]
    assert [r.levelname for r in caplog.records if "a clock was ahead" in r.getMessage()] == ["WARNING"]


def test_a_tick_before_a_clock_went_ahead_is_not_sent_again_and_one_during_it_is_made_up_for(
    outbox: Outbox, clock: Clock
) -> None:
    registry = MemorySchedules()
    registry.announce("files", [schedule("0 * * * *")], NOON)
    scheduler = Scheduler(registry, outbox, clock)
    clock.now = datetime(2026, 11, 23, 13, 0, tzinfo=UTC)
    scheduler.fire_due()
    clock.now += timedelta(days=30)
    scheduler.fire_due()
    clock.now = datetime(2026, 11, 23, 14, 30, tzinfo=UTC)
    scheduler.fire_due()
    scheduler.fire_due()
    assert outbox.ticks == [f"2026-{day}:00:00+00:00" for day in ("11-23T13", "12-23T13", "11-23T14")]


def test_a_first_announcement_by_a_clock_that_was_ahead_stops_no_schedule(outbox: Outbox, clock: Clock) -> None:
    registry = MemorySchedules()
    registry.announce("files", [schedule()], NOON + timedelta(days=365))
    scheduler = Scheduler(registry, outbox, clock)
    for minute in range(21):
        clock.now = NOON + timedelta(minutes=minute)
        scheduler.fire_due()
    assert [tick[11:16] for tick in outbox.ticks] == ["12:10", "12:20"]


def test_a_store_whose_clock_steps_back_a_little_changes_nothing(
    scheduler: Scheduler, outbox: Outbox, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    clock.now = datetime(2026, 11, 23, 12, 10, tzinfo=UTC)
    assert scheduler.fire_due() == 1
    clock.now -= timedelta(seconds=50)
    assert scheduler.fire_due() == 0
    clock.now += timedelta(minutes=1)
    assert scheduler.fire_due() == 0
    assert caplog.records == []


def test_the_scheduler_goes_by_the_clock_of_the_registry(outbox: Outbox) -> None:
    class Ahead(MemorySchedules):
        def now(self) -> datetime:
            return datetime(2060, 1, 1, 12, 10, tzinfo=UTC)

    registry = Ahead()
    registry.announce("files", [schedule()], datetime(2060, 1, 1, 12, 5, tzinfo=UTC))
    assert Scheduler(registry, outbox).fire_due() == 1
    registry.announce("archive", [Schedule.of("archive", Clean, cron("@hourly"))])
    assert registry.last_tick("archive.clean") == registry.now()


def test_a_tick_whose_send_failed_stays_due(scheduler: Scheduler, outbox: Outbox, clock: Clock) -> None:
    outbox.refusals = [BrokerUnavailable("no broker")]
    clock.now += timedelta(minutes=10)
    with pytest.raises(BrokerUnavailable):
        scheduler.fire_due()
    assert outbox.messages == []
    assert scheduler.fire_due() == 1
    assert outbox.ticks == ["2026-11-23T12:10:00+00:00"]


def test_a_new_schedule_starts_with_its_announcement_and_is_not_started_again_by_the_next(
    scheduler: Scheduler, outbox: Outbox, registry: MemorySchedules, clock: Clock
) -> None:
    assert registry.last_tick("files.clean") == NOON
    clock.now += timedelta(minutes=10)
    registry.announce("files", [schedule()], clock.now)
    assert scheduler.fire_due() == 1
    assert outbox.ticks == ["2026-11-23T12:10:00+00:00"]


def test_a_schedule_that_is_announced_no_more_is_sent_no_more(
    scheduler: Scheduler, registry: MemorySchedules, clock: Clock
) -> None:
    registry.announce("files", [], clock.now)
    clock.now += timedelta(hours=1)
    assert scheduler.fire_due() == 0
    assert registry.schedules() == []


def test_the_last_tick_never_goes_back(registry: MemorySchedules) -> None:
    registry.advance("files.clean", NOON + timedelta(hours=1))
    registry.advance("files.clean", NOON)
    assert registry.last_tick("files.clean") == NOON + timedelta(hours=1)


def test_a_schedule_keeps_to_its_own_zone(outbox: Outbox, clock: Clock) -> None:
    registry = MemorySchedules()
    registry.announce("files", [schedule("0 14 * * *", "Europe/Berlin")], NOON)
    clock.now = datetime(2026, 11, 23, 13, 0, tzinfo=UTC)
    Scheduler(registry, outbox, clock).fire_due()
    assert outbox.ticks == ["2026-11-23T13:00:00+00:00"]


def test_the_scheduler_outlives_an_outage_and_ends_when_told(
    registry: MemorySchedules, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    stop = Stop(looks=3)
    outbox = Outbox()
    outbox.refusals = [BrokerUnavailable("no broker")]
    clock.now += timedelta(minutes=10)
    Scheduler(registry, outbox, clock).run(stop)
    assert len(outbox.messages) == 1
    assert stop.pauses[0] == 5.0  # the retry of what was refused
    assert all(pause is not None and pause <= 30 for pause in stop.pauses)  # the rest of the minute at most
    assert any("no broker" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("broken", ["registry", "alive"])
def test_the_scheduler_outlives_any_error(
    broken: str, registry: MemorySchedules, outbox: Outbox, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    failures = [KeyError("what nobody expected")]
    stop = Stop(looks=2)

    class Broken(MemorySchedules):
        def schedules(self) -> list[Schedule]:
            fail("registry")
            return registry.schedules()

        last_tick = staticmethod(registry.last_tick)
        advance = staticmethod(registry.advance)

    def fail(where: str) -> None:
        if where == broken and failures:
            raise failures.pop()

    clock.now += timedelta(minutes=10)
    Scheduler(Broken(), outbox, clock).run(stop, alive=lambda: fail("alive"))
    assert stop.pauses[0] == 5.0
    assert outbox.ticks == ["2026-11-23T12:10:00+00:00"]
    assert "what nobody expected" in caplog.text


def test_a_schedule_whose_message_is_refused_does_not_hold_up_the_others(outbox: Outbox, clock: Clock) -> None:
    registry = MemorySchedules()
    registry.announce("archive", [Schedule.of("archive", Clean, cron("*/10 * * * *"))], NOON)
    registry.announce("files", [schedule()], NOON)
    outbox.refusals = [Unroutable("no such queue")]
    clock.now += timedelta(minutes=10)
    scheduler = Scheduler(registry, outbox, clock)
    assert scheduler.fire_due() == 1
    assert [message.options["schedule"] for message in outbox.messages] == ["files.clean"]
    assert scheduler.fire_due() == 1
    assert [message.options["schedule"] for message in outbox.messages] == ["files.clean", "archive.clean"]


def test_a_tick_that_the_broker_refuses_is_an_error_once_and_the_refusal_ends_with_it(
    registry: MemorySchedules, outbox: Outbox, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    refusals = Refusals()
    outbox.refusals = [AccessRefused("RabbitMQ answered 403") for _ in range(3)]
    clock.now += timedelta(minutes=10)
    scheduler, lasted = Scheduler(registry, outbox, clock, refusals), []
    scheduler.run(Stop(looks=4), alive=lambda: lasted.append(bool(refusals.problems(timedelta(seconds=-1)))))
    assert lasted == [False, True, True, True]
    assert refusals.longest() == timedelta()
    assert len(outbox.messages) == 1
    said = [(record.levelname, record.getMessage()) for record in caplog.records if record.levelno > logging.INFO]
    assert said == [("ERROR", "RabbitMQ answered 403; jobs wait until that is mended")]


@pytest.mark.parametrize("kind", [AccessRefused, StoreRefused])
def test_a_schedule_that_is_refused_does_not_starve_the_others(
    kind: type[JobkitError], clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    class Refusing(MemorySchedules):
        def advance(self, name: str, tick: datetime, when: str | None = None) -> None:
            if name == "archive.clean":
                raise kind("no right")
            super().advance(name, tick, when)

    registry, outbox = Refusing(), Outbox()
    registry.announce("archive", [Schedule.of("archive", Clean, cron("*/10 * * * *"))], NOON)
    registry.announce("files", [schedule()], NOON)
    clock.now += timedelta(minutes=10)
    scheduler = Scheduler(registry, outbox, clock)
    scheduler.run(Stop(looks=2))
    assert [m.options["schedule"] for m in outbox.messages] == ["archive.clean", "files.clean", "archive.clean"]
    assert scheduler.waits
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR] == ["ticks wait: no right"]


def test_a_tick_that_waits_for_its_queue_is_warned_of_once(
    registry: MemorySchedules, outbox: Outbox, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    outbox.refusals = [Unroutable("no such queue") for _ in range(3)]
    clock.now += timedelta(minutes=10)
    scheduler = Scheduler(registry, outbox, clock)
    assert [scheduler.fire_due() for _ in range(4)] == [0, 0, 0, 1]
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "files.clean: its tick waits: no such queue"
    ]


def test_an_announcement_that_is_refused_fails_health_until_it_is_made(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("jobkit.schedule.announce._INTERVAL", 0.001)
    monkeypatch.setattr("jobkit.schedule.announce._AFTER_A_REFUSAL", 0.001)
    refusals, lasted, announced = Refusals(), [], threading.Event()

    class Refusing(MemorySchedules):
        def announce(self, *_: object, **__: object) -> None:
            lasted.append(bool(refusals.problems(timedelta(seconds=-1))))
            if len(lasted) < 3:
                raise StoreRefused("no right")
            if len(lasted) > 3:
                announced.set()

    announce, broker = Announce("files", [], Refusing(), ["clean"], refusals), StubBroker()
    announce.after_worker_boot(broker, None)
    assert announced.wait(5)
    announce.after_worker_shutdown(broker, None)
    assert lasted[:4] == [False, True, True, False]
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR] == [
        "no right; jobs wait until that is mended"
    ]


def test_a_changed_schedule_does_not_fire_for_a_tick_before_its_deploy(outbox: Outbox, clock: Clock) -> None:
    registry = MemorySchedules()
    registry.announce("files", [schedule("0 3 * * *")], NOON)
    scheduler = Scheduler(registry, outbox, clock)
    clock.now = datetime(2026, 11, 24, 3, 0, tzinfo=UTC)
    assert scheduler.fire_due() == 1
    clock.now = datetime(2026, 11, 24, 15, 0, tzinfo=UTC)
    registry.announce("files", [schedule("0 9 * * *")], clock.now)
    assert scheduler.fire_due() == 0
    clock.now = datetime(2026, 11, 25, 9, 0, tzinfo=UTC)
    assert scheduler.fire_due() == 1
    assert outbox.ticks == ["2026-11-24T03:00:00+00:00", "2026-11-25T09:00:00+00:00"]


def test_a_list_announced_while_the_scheduler_looks_misfires_nothing(outbox: Outbox, clock: Clock) -> None:
    old, new = schedule("0 3 * * *"), schedule("0 9 * * *")

    class Changing(MemorySchedules):
        def schedules(self) -> list[Schedule]:
            read = super().schedules()
            self.announce("files", [old], clock.now)  # by a worker that is still old
            return read

    registry = Changing()
    registry.announce("files", [old], NOON - timedelta(hours=12))
    registry.announce("files", [old], NOON)  # and no scheduler ran: its tick at three is missed
    registry.announce("files", [new], NOON)
    assert Scheduler(registry, outbox, clock).fire_due() == 0


def test_a_rolling_deploy_sends_each_tick_of_old_and_new_once(outbox: Outbox, clock: Clock) -> None:
    registry = MemorySchedules()
    kept = Schedule.of("archive", Clean, cron("*/10 * * * *"))
    old, new = schedule("*/15 * * * *"), schedule("*/20 * * * *")
    registry.announce("files", [kept, old], NOON)
    scheduler = Scheduler(registry, outbox, clock)
    for minute in range(60):
        clock.now = NOON + timedelta(minutes=minute)
        scheduler.fire_due()  # at half past, so the list of either side is the one that is read
        registry.announce("files", [kept, new] if minute % 2 else [kept, old], clock.now)
        clock.now += timedelta(seconds=1)
        scheduler.fire_due()
    sent = {
        name: [t[14:16] for m in outbox.messages if (t := m.options["tick"]) and m.options["schedule"] == name]
        for name in ("archive.clean", "files.clean")
    }
    assert sent["archive.clean"] == ["10", "20", "30", "40", "50"]
    assert sorted(sent["files.clean"]) == ["15", "20", "30", "40", "45"]
    assert len({message.message_id for message in outbox.messages}) == len(outbox.messages)


def test_a_service_without_schedules_announces_that_it_has_none() -> None:
    service: Service[ServiceSettings, None] = Service("files", lifespan=lambda _settings: contextlib.nullcontext())
    service.actor(Named)(lambda _job, _context: None)
    built = service.build(PlatformSettings(), ServiceSettings())
    assert [type(one) for one in built.middleware].count(Announce) == 1


def test_an_announcement_that_fails_is_made_again(
    monkeypatch: pytest.MonkeyPatch, registry: MemorySchedules, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("jobkit.schedule.announce._INTERVAL", 0.001)
    announced = threading.Event()
    failures = [StoreUnavailable("no store"), KeyError("what nobody expected")]

    class Failing(MemorySchedules):
        def announce(
            self,
            service: str,
            schedules: Sequence[Schedule],
            now: datetime | None = None,
            *,
            actors: Sequence[str] | None = None,
        ) -> None:
            if failures:
                raise failures.pop(0)
            assert (service, schedules, now, actors) == ("files", [], None, ["clean"])
            announced.set()

    announce, broker = Announce("files", [], Failing(), ["clean"]), StubBroker()
    announce.after_worker_boot(broker, None)
    assert announced.wait(5)
    announce.after_worker_shutdown(broker, None)
    assert "no store" in caplog.text
    assert "what nobody expected" in caplog.text


def test_a_periodic_job_that_needs_to_be_told_more_is_refused_at_its_declaration() -> None:
    service: Service[ServiceSettings, None] = Service("files", lifespan=lambda _settings: contextlib.nullcontext())
    with pytest.raises(ValueError, match="name"):
        service.actor(Named, periodic=cron("@daily"))


def test_an_announcement_sets_no_default(outbox: Outbox, clock: Clock) -> None:
    announced = Schedule.of("files", Report, cron("@daily"))
    assert json.loads(json.dumps(asdict(announced)))["payload"] == {}
    read = Schedule.read(asdict(announced))
    assert read == announced
    assert read.message(NOON).kwargs == {}, "its worker makes them"


def test_where_the_contract_is_known_a_tick_has_defaults_of_its_own(outbox: Outbox, clock: Clock) -> None:
    registry = MemorySchedules()
    registry.announce("files", [Schedule.of("files", Report, cron("@daily"))], NOON)
    for _ in range(3):
        clock.now += timedelta(days=1)
        Scheduler(registry, outbox, clock).fire_due()
    reports = [Report.model_validate(message.kwargs) for message in outbox.messages]
    assert [report.day for report in reports] == [date(2026, 11, day) for day in (24, 25, 26)]
    assert len({report.run for report in reports}) == 3


def test_a_tick_is_read_from_the_options_of_its_message() -> None:
    message = schedule().message(NOON)
    tick = Tick.of(message.options)
    assert tick == Tick("files.clean", NOON)
    assert tick.id == message.message_id


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tick": "2026-11-23T12:00:00+00:00"},
        {"schedule": "files.clean"},
        {"schedule": 7, "tick": "2026-11-23T12:00:00+00:00"},
        {"schedule": "files.clean", "tick": 7},
        {"schedule": "files.clean", "tick": "noon"},
        {"schedule": "files.clean", "tick": "2026-11-23T12:00:00"},
        {"schedule": "files.clean", "tick": "0001-01-01T00:00:00+23:00"},
    ],
)
def test_options_that_name_no_tick_are_no_tick(options: dict[str, object]) -> None:
    assert Tick.of(options) is None


@pytest.mark.parametrize("field", ["name", "service", "actor", "queue"])
@pytest.mark.parametrize("text", ["", " ", "\t\n", "\u2003", "\ud800", "a\0b"])
def test_a_schedule_without_a_usable_name_is_refused(field: str, text: str) -> None:
    entry = {**asdict(schedule()), field: text}
    with pytest.raises(ValueError, match=f"{field}=.* must be printable text that is not blank"):
        Schedule.read(entry)
    with pytest.raises(ValueError, match="must be printable"):
        Schedule(**entry)


@pytest.mark.parametrize("seconds", [0, -1, 30, float("nan"), float("inf"), 1e300])
def test_an_announced_misfire_limit_that_is_none_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="misfire"):
        Schedule.read({**asdict(schedule()), "misfire_seconds": seconds})


def test_an_announcement_of_an_older_version_has_the_usual_misfire_limit() -> None:
    entry = asdict(schedule())
    del entry["misfire_seconds"]
    assert Schedule.read(entry).cron.misfire == timedelta(days=1)


def test_an_unknown_time_zone_ends_a_worker_at_its_start_in_one_line() -> None:
    service: Service[ServiceSettings, None] = Service("files", lifespan=lambda _settings: contextlib.nullcontext())
    service.actor(Clean, periodic=cron("@daily", "Europe/Atlantis"))(lambda _job, _context: None)
    with pytest.raises(SettingsError, match=r"files\.clean: .*Europe/Atlantis") as refusal:
        service.build(PlatformSettings(), ServiceSettings())
    assert "\n" not in str(refusal.value)
