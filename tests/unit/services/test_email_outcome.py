"""What the job's record says of the final dot, run by run."""

from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import pytest

from email_service.adapters.outcome import FinalDot, Outcome
from email_service.errors import OutcomeUnknown
from jobkit.contracts.email import Refusal
from jobkit.errors import Snooze, StoreUnavailable

T = TypeVar("T")
HOUR = timedelta(hours=1)
REFUSED = Refusal(address="bob@example.org", code=550, reason="no")


class Record:
    """The part of a context that survives the run."""

    def __init__(self) -> None:
        self.stored: dict[str, str] = {}
        self.down = False
        self.shields: list[timedelta] = []

    def remember(self, name: str, value: str) -> str:
        if self.down:
            raise StoreUnavailable("away")
        return self.stored.setdefault(name, value)

    def forget(self, name: str) -> None:
        if self.down:
            raise StoreUnavailable("away")
        self.stored.pop(name, None)

    def shielded(self, call: Callable[[], T], *, at_most: timedelta) -> T:
        self.shields.append(at_most)
        return call()


def dot(record: Record, again_after: timedelta = HOUR) -> FinalDot:
    return FinalDot(record, wait=timedelta(minutes=10), again_after=again_after)


def silence() -> tuple[int, str]:
    raise OutcomeUnknown("no answer")


def die() -> tuple[int, str]:
    raise SystemExit  # as a killed worker: nothing is recorded after it


def send(record: Record, finish: Callable[[], tuple[int, str]], again_after: timedelta = HOUR) -> Outcome | None:
    """One run that gets as far as the dot, unless an earlier one has ended it."""
    one = dot(record, again_after)
    if (earlier := one.earlier()) is not None:
        return earlier
    one(finish, ["ada@example.org"], [REFUSED])
    return None


def test_a_run_after_the_answer_takes_its_outcome_and_sends_nothing() -> None:
    record = Record()
    assert send(record, lambda: (250, "ok")) is None
    outcome = send(record, pytest.fail)
    assert outcome is not None
    assert (outcome.known, outcome.accepted, outcome.refusals) == (True, ("ada@example.org",), (REFUSED,))


@pytest.mark.parametrize("answer", [(451, "later"), (554, "spam"), (421, "bye")])
def test_a_refusal_leaves_no_mark(answer: tuple[int, str]) -> None:
    record = Record()
    send(record, lambda: answer)
    assert dot(record).earlier() is None


@pytest.mark.parametrize("end", [silence, die])
def test_an_unknown_outcome_rests_then_is_tried_once_then_ends(end: Callable[[], tuple[int, str]]) -> None:
    record = Record()
    with pytest.raises((OutcomeUnknown, SystemExit)):
        send(record, end)
    with pytest.raises(Snooze) as rest:  # a run that comes too early
        send(record, pytest.fail)
    assert timedelta(minutes=59) < rest.value.after <= HOUR
    none = timedelta()
    with pytest.raises((OutcomeUnknown, SystemExit)):
        send(record, end, again_after=none)
    outcome = send(record, pytest.fail, again_after=none)
    assert outcome is not None
    assert (outcome.known, outcome.accepted, outcome.refusals) == (False, ("ada@example.org",), (REFUSED,))


def test_the_run_that_hears_nothing_decides_at_once() -> None:
    record = Record()
    first = dot(record)
    assert first.earlier() is None
    with pytest.raises(OutcomeUnknown):
        first(silence, ["ada@example.org"], [])
    with pytest.raises(Snooze):
        first.after_silence()
    second = dot(record, timedelta())
    assert second.earlier() is None
    with pytest.raises(OutcomeUnknown):
        second(silence, ["ada@example.org"], [])
    assert not second.after_silence().known


def test_a_second_try_that_is_answered_is_known() -> None:
    record, none = Record(), timedelta()
    with pytest.raises(OutcomeUnknown):
        send(record, silence, none)
    assert send(record, lambda: (250, "ok"), none) is None
    outcome = send(record, pytest.fail, none)
    assert outcome is not None
    assert outcome.known


def test_without_its_mark_no_dot_is_sent() -> None:
    record = Record()
    one = dot(record)
    assert one.earlier() is None
    record.down = True
    with pytest.raises(StoreUnavailable):
        one(pytest.fail, ["ada@example.org"], [])


def test_a_store_that_goes_away_during_the_answer_does_not_undo_it() -> None:
    record = Record()

    def answered() -> tuple[int, str]:
        record.down = True
        return 250, "ok"

    assert send(record, answered) is None


def test_the_shield_is_longer_than_the_wait_for_the_answer() -> None:
    record = Record()
    send(record, lambda: (250, "ok"))
    assert all(shield > timedelta(minutes=10) for shield in record.shields)
