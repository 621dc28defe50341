"""What every registry of schedules promises; each implementation runs the whole suite."""

from datetime import UTC, datetime, timedelta

import pytest

from jobkit.contracts import Job
from jobkit.schedule.cron import cron
from jobkit.schedule.registry import ROLLOUT, MemorySchedules, RedisSchedules, ScheduleRegistry
from jobkit.schedule.schedule import Schedule

START = datetime(2026, 11, 23, 12, 0, 30, 123456, tzinfo=UTC)
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
TICK = START + 2 * MINUTE  # was sent
LATER = START + ROLLOUT + 10 * MINUTE


class Clean(Job, queue="files"):
    """Remove what nobody needs."""

    note: str = "ä"


class Count(Job, queue="files"):
    """Count what is left."""


@pytest.fixture(params=["memory", "redis"])
def registry(request: pytest.FixtureRequest) -> ScheduleRegistry:
    if request.param == "memory":
        return MemorySchedules()
    return RedisSchedules(request.getfixturevalue("redis_url"))


def clean(spec: str = "0 3 * * *", zone: str = "UTC") -> Schedule:
    return Schedule.of("files", Clean, cron(spec, zone))


COUNT = Schedule.of("files", Count, cron("@daily"))


def test_nothing_is_known_at_first(registry: ScheduleRegistry) -> None:
    registry.advance("files.clean", TICK)
    assert registry.schedules() == []
    assert registry.last_tick("files.clean") is None


def test_schedules_come_back_as_announced_and_by_name(registry: ScheduleRegistry) -> None:
    other = Schedule.of("archive", Clean, cron("*/5 * * * *", "Europe/Berlin"))
    registry.announce("files", [COUNT, clean()], START)
    registry.announce("archive", [other], START)
    assert registry.schedules() == [other, clean(), COUNT]


def test_a_new_schedule_starts_from_its_announcement(registry: ScheduleRegistry) -> None:
    registry.announce("files", [clean()], START)
    assert registry.last_tick("files.clean") == START


def test_an_announcement_replaces_only_the_list_of_its_service(registry: ScheduleRegistry) -> None:
    other = Schedule.of("archive", Clean, cron("@daily"))
    registry.announce("archive", [other], START)
    registry.announce("files", [clean()], START)
    registry.announce("files", [], START)
    assert registry.schedules() == [other]


def test_the_last_tick_never_goes_back(registry: ScheduleRegistry) -> None:
    registry.announce("files", [clean()], START)
    registry.advance("files.clean", TICK)
    registry.advance("files.clean", START + MINUTE)
    assert registry.last_tick("files.clean") == TICK


@pytest.mark.parametrize("silence", [MINUTE, 30 * DAY])
def test_a_schedule_that_stays_goes_on_after_its_last_tick(registry: ScheduleRegistry, silence: timedelta) -> None:
    registry.announce("files", [clean()], START)
    registry.advance("files.clean", TICK)
    registry.announce("files", [COUNT, clean()], START + silence)  # no worker ran in between
    assert registry.last_tick("files.clean") == TICK


@pytest.mark.parametrize("changed", [clean("0 9 * * *"), clean(zone="Europe/Berlin")], ids=["expression", "zone"])
def test_a_changed_schedule_starts_from_its_announcement(registry: ScheduleRegistry, changed: Schedule) -> None:
    registry.announce("files", [clean(), COUNT], START)
    registry.announce("files", [changed, COUNT], LATER)
    assert registry.last_tick("files.clean") == LATER
    assert registry.last_tick("files.count") == START


def test_a_schedule_that_is_changed_back_later_starts_anew(registry: ScheduleRegistry) -> None:
    registry.announce("files", [clean()], START)
    registry.announce("files", [clean("0 9 * * *")], START + MINUTE)
    registry.announce("files", [clean()], LATER)
    assert registry.last_tick("files.clean") == LATER


def test_a_schedule_that_was_removed_and_comes_back_starts_anew(registry: ScheduleRegistry) -> None:
    registry.announce("files", [clean()], START)
    registry.announce("files", [], START)
    registry.announce("files", [clean()], LATER)
    assert registry.last_tick("files.clean") == LATER


def test_lists_announced_in_turn_keep_the_last_ticks_of_both(registry: ScheduleRegistry) -> None:
    old, new = [clean(), COUNT], [clean("0 9 * * *")]
    registry.announce("files", old, START)
    registry.announce("files", new, START + MINUTE)
    for n in range(1, 10):
        now = START + 2 * n * MINUTE
        registry.announce("files", old, now)
        assert registry.last_tick("files.clean") == START
        assert registry.last_tick("files.count") == START + (n - 1) * MINUTE
        registry.advance("files.count", START + n * MINUTE)
        registry.announce("files", new, now + MINUTE)
        assert registry.last_tick("files.clean") == START + MINUTE
    registry.advance("files.clean", LATER)
    registry.announce("files", old, START + 20 * MINUTE)
    assert registry.last_tick("files.clean") == START


def test_a_last_tick_belongs_to_its_expression_whichever_was_announced_last(registry: ScheduleRegistry) -> None:
    old, new = clean(), clean("0 9 * * *")
    registry.announce("files", [old], START)
    registry.announce("files", [new], START + MINUTE)
    registry.advance(old.name, TICK, old.when)
    assert registry.last_tick(old.name, old.when) == TICK
    assert registry.last_tick(new.name, new.when) == registry.last_tick(new.name) == START + MINUTE
    never = clean("0 10 * * *")
    registry.advance(never.name, TICK, never.when)
    assert registry.last_tick(never.name, never.when) is None


def test_a_schedule_that_was_announced_has_not_run(registry: ScheduleRegistry) -> None:
    registry.announce("files", [clean(), COUNT], START)
    assert registry.last_sent("files.clean") is None
    registry.advance("files.clean", TICK)
    registry.announce("files", [clean(), COUNT], START + MINUTE)
    assert registry.last_sent("files.clean") == registry.last_sent("files.clean", clean().when) == TICK
    assert registry.last_sent("files.count") is None
    assert registry.last_sent("files.nobody") is None


def test_an_announcement_without_a_time_goes_by_the_clock_of_the_store(registry: ScheduleRegistry) -> None:
    before = registry.now()
    registry.announce("files", [clean()])
    assert before <= (registry.last_tick("files.clean") or START) <= registry.now()
    assert abs(registry.now() - datetime.now(UTC)) < MINUTE, "it is the clock of this machine"


def test_a_last_tick_in_the_future_gives_way_to_the_one_before_it(registry: ScheduleRegistry) -> None:
    registry.announce("files", [clean()], START)
    registry.advance("files.clean", TICK)
    registry.advance("files.clean", TICK + 365 * DAY)
    assert registry.heal("files.clean", TICK + MINUTE) == TICK
    assert registry.last_tick("files.clean") == TICK
    assert registry.heal("files.clean", TICK + MINUTE) == TICK, "there is nothing left to heal"
    registry.advance("files.clean", TICK + DAY)
    assert registry.last_tick("files.clean") == registry.last_sent("files.clean") == TICK + DAY


def test_a_schedule_that_has_always_been_in_the_future_goes_on_from_now(registry: ScheduleRegistry) -> None:
    registry.announce("files", [clean(), COUNT], START + 365 * DAY)
    registry.advance("files.clean", TICK + 365 * DAY)
    for schedule in (clean(), COUNT):
        assert registry.heal(schedule.name, START, schedule.when) == START
        assert registry.last_tick(schedule.name) == START
    assert registry.heal("files.nobody", START) is None
    assert registry.heal("files.clean", START, "0 9 * * * UTC") is None


def test_a_schedule_that_was_removed_by_a_clock_that_was_ahead_starts_anew(registry: ScheduleRegistry) -> None:
    registry.announce("files", [clean()], START + 365 * DAY)
    registry.announce("files", [], START)
    registry.announce("files", [clean()], LATER)
    assert registry.last_tick("files.clean") == LATER
