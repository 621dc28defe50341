"""Fixed walks along a job's path, all walks of the smallest cases, and mistakes that the explorer has to find."""

import itertools
import logging
import time
from collections.abc import Iterator

import pytest
from choices import InTurn
from mistakes import MISTAKES
from sizes import LARGE, size
from walks import CASES, walk
from world import Case, Finding, explore

#: Where each mistake is found.
RECORDED = {
    "the ack comes before the record": ("one", 1134),
    "the ack comes before the run": ("parent", 7),
    "a retry is published after the ack": ("sent again, and dies again", 27),
    "a failure is recorded before its retry is published": ("sent again, and dies again", 13),
    "a retry that was not confirmed is taken for published": ("exhausted", 256),
    "a record that was not written is taken for written": ("busy", 24),
    "a lease is released without its fence": ("long", 128),
    "the lease is released before the run": ("duplicate", 1),
    "a failure uses up no attempt": ("exhausted", 18),
    "a job runs although the store is away": ("retried", 3),
    "a delivery whose job is held is dropped": ("exhausted", 4),
    "a dead letter is recorded and not published": ("exhausted", 4),
    "a death is not recorded": ("exhausted", 4),
    "a message that was sent again loses its round": ("sent again", 12),
    "a redelivery counts as sent again": ("sent again, and dies again", 69),
    "the turn of a last chance is not given back": ("exhausted", 4),
    "a lease is renewed for ever": ("one", 0),
    "a lease is not renewed": ("long", 2),
    "a crash counts for a job that had not begun": ("retried", 451),
    "a job begins, and nobody can know": ("poison", 9),
    "what was claimed ahead asks again under its old name": ("busy", 5176),
    "what was not claimed together is forgotten": ("three", 137),
    "a group that was not recorded is taken for recorded": ("busy", 24),
    "what is handed back is acked": ("busy", 24),
    "what was delivered again is claimed in an outage": ("long", 44),
    "owners have no head start after an outage": ("retried", 3),
    "a process that could not beat for a lease takes more": ("poison", 653),
}

#: Walks of each case.
WALKS = size(2_000, 20_000)

#: Walks of one case that a test takes at a time.
PART = 500


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """The path logs what the faults do to it, thousands of times."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.prove("walks along a job's path, with up to three faults each", f"{WALKS * len(CASES):,} walks")
@pytest.mark.parametrize("first", range(0, WALKS, PART))
@pytest.mark.parametrize("case", CASES)
def test_no_walk_finds_anything(case: str, first: int) -> None:
    for seed in range(first, first + PART):
        found = walk(case, seed)
        assert not found, f"--case '{case}' --seed {seed}: {found}"


SMALLEST = {
    "one job": (Case(["a"], {"a": ["ok"]}, processes=1, threads=1), 2),
    "one job, two processes": (Case(["a"], {"a": ["ok"]}, threads=1), 1),
    "a job that is retried": (Case(["a"], {"a": ["fail", "ok"]}, processes=1, threads=1), 1),
    "a duplicate": (Case(["a", "a"], {"a": ["ok"]}, processes=1), 0),
    "a parent": (Case(["a"], {"a": ["send b, ok"], "b": ["ok"]}, processes=1, threads=1), 1),
}


@pytest.mark.parametrize("name", SMALLEST)
def test_no_walk_of_the_smallest_cases_finds_anything(name: str) -> None:
    case, faults = SMALLEST[name]
    walks: InTurn | None = InTurn()
    count = 0
    while walks is not None:
        explore(case, walks, faults=faults)
        walks, count = walks.next(), count + 1
    assert count > 10


def test_every_mistake_is_recorded() -> None:
    assert RECORDED.keys() == MISTAKES.keys()


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found_again_where_it_was_found_first(mistake: str) -> None:
    case, seed = RECORDED[mistake]
    assert walk(case, seed, mistake)
    assert not walk(case, seed), "the path as it is has no fault there"


@pytest.mark.prove("the explorer finds planted mistakes", f"{len(MISTAKES)} mistakes, each within a minute")
@pytest.mark.parametrize("mistake", MISTAKES if LARGE else ["the ack comes before the record"])
def test_a_mistake_is_found_within_a_minute(mistake: str) -> None:
    names, until = list(CASES), time.monotonic() + 60
    for seed in itertools.count(1_000_000):
        assert time.monotonic() < until, "not found within a minute"
        if walk(names[seed % len(names)], seed, mistake):
            return


def test_a_finding_tells_its_story() -> None:
    case, seed = RECORDED["the ack comes before the record"]
    first, *story = walk(case, seed, "the ack comes before the record").splitlines()
    assert "is lost: its record says running" in first
    assert any("receives a" in line for line in story)
    assert walk(case, seed, "the ack comes before the record").splitlines() == [first, *story], "it replays"


def test_what_goes_round_in_circles_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("world.MOST_STEPS", 3)
    with pytest.raises(Finding, match="for ever"):
        explore(CASES["one"], InTurn(), faults=0)
