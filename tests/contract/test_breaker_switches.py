"""What every keeper of breakers' states promises; each implementation runs the whole suite."""

import time
from datetime import UTC, datetime, timedelta

import pytest

from jobkit.breaker.redis import RedisSwitches
from jobkit.breaker.switches import Closed, MemorySwitches, Open, Probe, Switches

PAUSE, LONGEST = timedelta(milliseconds=200), timedelta(milliseconds=700)
LONG = timedelta(minutes=1)


@pytest.fixture(params=["memory", "redis"])
def switches(request: pytest.FixtureRequest) -> Switches:
    return MemorySwitches() if request.param == "memory" else RedisSwitches(request.getfixturevalue("redis_url"))


def trip(switches: Switches, owner: str, pause: timedelta = PAUSE) -> timedelta | None:
    """For how long the breaker is open through this; None if it was open."""
    tripped = switches.trip("smtp", owner, pause=pause, longest=max(pause, LONGEST))
    return tripped.wait if tripped.anew else None


def become_probe(switches: Switches, owner: str, probe_for: timedelta = LONG) -> None:
    deadline = time.monotonic() + 10
    while not isinstance(answer := switches.ask("smtp", owner, probe_for=probe_for), Probe):
        assert isinstance(answer, Open)
        assert time.monotonic() < deadline
        time.sleep(max(0.01, answer.wait.total_seconds()))


def test_a_breaker_is_closed_until_it_is_tripped(switches: Switches) -> None:
    assert switches.ask("smtp", "a", probe_for=LONG) == Closed()
    assert switches.look("smtp") is None


def test_an_open_breaker_lets_nobody_run_and_says_for_how_long(switches: Switches) -> None:
    assert trip(switches, "a", LONG) == LONG
    answer = switches.ask("smtp", "b", probe_for=LONG)
    assert isinstance(answer, Open)
    assert timedelta(seconds=50) < answer.wait <= LONG
    assert timedelta(seconds=50) < (switches.look("smtp") or timedelta()) <= LONG
    assert switches.ask("http", "b", probe_for=LONG) == Closed(), "another breaker is another"


def test_a_breaker_that_is_open_is_not_opened_again(switches: Switches) -> None:
    trip(switches, "a", LONG)
    later = switches.trip("smtp", "b", pause=2 * LONG, longest=2 * LONG)
    assert not later.anew
    assert later.wait <= LONG


def test_one_job_probes_and_the_others_wait_for_it(switches: Switches) -> None:
    trip(switches, "a")
    become_probe(switches, "b")
    other = switches.ask("smtp", "c", probe_for=LONG)
    assert isinstance(other, Open)
    assert timedelta() < other.wait <= PAUSE, "asked again soon, as a probe may be done soon"
    assert switches.ask("smtp", "b", probe_for=LONG) == Probe(), "asked again after a time-out"
    assert switches.look("smtp") == timedelta()


def test_a_probe_that_succeeds_closes_the_breaker(switches: Switches) -> None:
    trip(switches, "a")
    become_probe(switches, "b")
    assert not switches.close("smtp", "c"), "it is not the probe"
    assert switches.close("smtp", "b")
    assert switches.ask("smtp", "c", probe_for=LONG) == Closed()


def test_each_probe_that_fails_doubles_the_pause_up_to_the_longest(switches: Switches) -> None:
    assert trip(switches, "a") == PAUSE
    become_probe(switches, "b")
    assert trip(switches, "b") == 2 * PAUSE
    assert trip(switches, "b") is None, "said twice after a time-out"
    become_probe(switches, "c")
    assert trip(switches, "c") == LONGEST


def test_a_probe_that_says_nothing_makes_way_for_the_next(switches: Switches) -> None:
    trip(switches, "a")
    become_probe(switches, "b")
    switches.give_up_probe("smtp", "c")
    assert isinstance(switches.ask("smtp", "c", probe_for=LONG), Open), "c was not the probe"
    switches.give_up_probe("smtp", "b")
    assert switches.ask("smtp", "c", probe_for=LONG) == Probe()


def test_a_probe_whose_worker_died_is_not_waited_for_longer_than_it_had(switches: Switches) -> None:
    trip(switches, "a")
    become_probe(switches, "b", probe_for=timedelta(milliseconds=100))
    become_probe(switches, "c")
    assert trip(switches, "b") is None, "it is the probe no more"
    assert not switches.close("smtp", "b")


def test_open_breakers_are_listed_with_what_a_person_asks_first(switches: Switches) -> None:
    assert switches.opened() == []
    before = datetime.now(UTC)
    switches.trip("email/smtp", "a", pause=LONG, longest=LONG, reason="MailServerUnavailable: no answer")
    switches.trip("email/smtp", "b", pause=LONG, longest=LONG, reason="it was open")
    switches.trip("etl/storage", "a", pause=LONG, longest=LONG)
    smtp, storage = switches.opened()
    assert (smtp.name, smtp.probing, smtp.reason) == ("email/smtp", False, "MailServerUnavailable: no answer")
    assert (storage.name, storage.reason) == ("etl/storage", "")
    assert timedelta(seconds=50) < smtp.probe_in <= LONG
    assert before - timedelta(seconds=1) < smtp.since < datetime.now(UTC) + timedelta(seconds=1)


def test_a_breaker_that_is_probed_says_so_and_stays_open_since_its_first_failure(switches: Switches) -> None:
    trip(switches, "a")
    [opened] = switches.opened()
    become_probe(switches, "b")
    [probed] = switches.opened()
    assert (probed.probing, probed.probe_in, probed.since) == (True, timedelta(), opened.since)
    switches.trip("smtp", "b", pause=PAUSE, longest=LONGEST, reason="still down")
    [again] = switches.opened()
    assert (again.probing, again.since, again.reason) == (False, opened.since, "still down")
    become_probe(switches, "c")
    switches.close("smtp", "c")
    assert switches.opened() == []


def test_a_breaker_is_closed_by_hand_whoever_probes(switches: Switches) -> None:
    assert not switches.reset("smtp")
    trip(switches, "a", LONG)
    assert switches.reset("smtp")
    assert not switches.reset("smtp")
    assert switches.opened() == []
    assert switches.ask("smtp", "b", probe_for=LONG) == Closed()
    trip(switches, "a")
    become_probe(switches, "b")
    assert switches.reset("smtp")
    assert not switches.close("smtp", "b"), "it probes no more"
    assert trip(switches, "b") == PAUSE, "it opens as if for the first time"
