"""What refuses a running process is said once for each change, and its age is known."""

import logging
from datetime import timedelta

import pytest

from jobkit.access import Access
from jobkit.errors import RecordUnreadable, SettingsError, StoreRefused, StoreUnavailable
from jobkit.refusals import Refusals


class Clock:
    """Seconds, as the test says."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def test_the_longest_refusal_counts_from_its_first_report() -> None:
    clock = Clock()
    refusals = Refusals(clock)
    assert refusals.longest() == timedelta()
    refusals.report("the store", "no password")
    clock.now += 30
    refusals.report("the store", "no permission")  # it says something else, and refuses all the same
    refusals.report("the broker", "no login")
    clock.now += 30
    assert refusals.longest() == timedelta(seconds=60)
    assert refusals.problems(timedelta(seconds=45)) == ["no permission"]
    refusals.clear("the store")
    assert refusals.longest() == timedelta(seconds=30)
    refusals.clear("the broker")
    assert refusals.longest() == timedelta()


def test_each_change_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "jobkit.refusals")
    refusals = Refusals()
    for _ in range(3):
        refusals.report("the store", "no password")
        refusals.report("the breakers", "no password")
    refusals.report("the store", "no permission")
    for source in ("the store", "the breakers", "the store"):
        refusals.clear(source)
    assert lines(caplog) == [
        ("ERROR", "no password; jobs wait until that is mended"),
        ("ERROR", "no permission; jobs wait until that is mended"),
        ("INFO", "nothing refuses this process any more; jobs go on"),
    ]


def raising(*answers: Exception | None) -> tuple[Access, Refusals]:
    left, refusals = list(answers), Refusals()

    def check() -> None:
        if answer := left.pop(0):
            raise answer

    return Access({"the store": check}, refusals), refusals


@pytest.mark.parametrize("kind", [StoreRefused, RecordUnreadable, SettingsError])
def test_what_is_refused_at_the_start_is_an_error_of_the_settings(kind: type[Exception]) -> None:
    access, _ = raising(kind("give the user that right"))
    with pytest.raises(SettingsError, match="give the user that right"):
        access.demand()


def test_a_text_that_comes_back_under_another_source_is_not_said_again(caplog: pytest.LogCaptureFixture) -> None:
    refusals = Refusals()
    for text in ("no HSET", "no HGET", "no HSET", "no HGET"):  # two threads that wait for the same right
        refusals.report("the records of jobs", text)
        refusals.report("the leases of jobs", text)
    assert [line for _, line in lines(caplog)] == [
        "no HSET; jobs wait until that is mended",
        "no HGET; jobs wait until that is mended",
    ]
    assert refusals.knows(StoreRefused("no HGET"))
    assert not refusals.knows(StoreRefused("no password"))


def test_what_costs_a_connection_is_tried_at_the_start_and_then_only_while_it_is_refused() -> None:
    asked: list[str] = []
    refusals = Refusals()
    access = Access({}, refusals, costly={"the broker": lambda: asked.append("connected")})
    access.demand()
    access.look()
    assert asked == ["connected"]
    refusals.report("the broker", "no login")
    access.look()
    access.look()
    assert asked == ["connected"] * 2
    assert not refusals.has("the broker")


def test_a_store_that_is_away_at_the_start_does_not_hide_that_the_broker_refuses_us() -> None:
    def away() -> None:
        raise StoreUnavailable("no answer")

    def refused() -> None:
        raise SettingsError("no login")

    with pytest.raises(SettingsError, match="no login"):
        Access({"the store": away}, Refusals(), costly={"the broker": refused}).demand()


def test_an_outage_at_the_start_is_left_to_those_who_wait_it_out() -> None:
    access, refusals = raising(StoreUnavailable("no answer"), StoreUnavailable("no answer"))
    access.demand()
    access.look()
    assert refusals.problems(timedelta(seconds=-1)) == []


def test_an_outage_neither_ends_a_refusal_nor_begins_one() -> None:
    access, refusals = raising(StoreRefused("no right"), StoreUnavailable("no answer"), None)
    access.look()
    access.look()
    assert refusals.problems(timedelta(seconds=-1)) == ["no right"]
    access.look()
    assert refusals.problems(timedelta(seconds=-1)) == []
