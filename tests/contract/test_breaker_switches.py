"""What every keeper of breakers' states promises; each implementation runs the whole suite."""

import time
from datetime import timedelta

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
