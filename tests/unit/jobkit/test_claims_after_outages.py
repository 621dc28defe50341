"""After an outage a thread asks for its job only once owners elsewhere had their head start, whatever comes between."""

import threading
from typing import Any
from unittest.mock import Mock

import pytest
from dramatiq import Message

from jobkit.effects import Call, Claim, Effect, Pause, Record
from jobkit.errors import StoreUnavailable
from jobkit.execution import Execution
from jobkit.leases import HEAD_START, RETRY_RENEWAL
from jobkit.middleware.idempotency import Idempotency
from jobkit.patience import Patience, WorkerStopping
from jobkit.store.base import JobKey, Lease

JOB = JobKey("work", "work", "id")
LEASE = Lease(JOB, "process:1", 1, 1)
AWAY = StoreUnavailable("away")


class Asking:
    """A thread that asks for its job, step by step.

    Args:
        away: Whether it is known that the store is, or was just now.
        unheard: Whether the job may have been given already, and its delivery is stale by now.
    """

    def __init__(self, *, away: bool = False, unheard: bool = False) -> None:
        self.is_away, self.stopping = away, threading.Event()
        idempotency = Idempotency(
            Mock(), Mock(), Patience(self.stopping, threading.Event()), lambda: self.is_away, clock=lambda: 0.0
        )
        message: Message[Any] = Message("work", "work", (), {}, {}, "id", 1)
        self.execution = Execution(message, JOB, "process:1", is_stale=lambda: unheard, unheard=unheard)
        self._steps = idempotency.claim(self.execution)
        self.effect: Effect | None = next(self._steps)

    def answer(self, answer: object = None) -> None:
        """Answer its effect, with an error perhaps."""
        try:
            self.effect = self._steps.throw(answer) if isinstance(answer, Exception) else self._steps.send(answer)
        except StopIteration:
            self.effect = None

    def pings(self) -> bool:
        return isinstance(self.effect, Call) and self.effect.what == "ping"

    def rests(self, seconds: float) -> bool:
        return self.effect == Pause(seconds, self.stopping)

    def claims(self) -> bool:
        return isinstance(self.effect, Claim)


def test_a_claim_that_meets_an_outage_is_made_again_after_a_ping_and_the_head_start_of_owners() -> None:
    asking = Asking()
    assert asking.claims()
    asking.answer(AWAY)
    assert asking.pings()
    asking.answer()
    assert asking.rests(HEAD_START)
    asking.answer(False)
    assert asking.claims()
    asking.answer(LEASE)
    assert asking.effect is None
    assert asking.execution.attempt == 1


def test_after_a_second_outage_owners_go_first_again() -> None:
    asking = Asking()
    for answer in (AWAY, None, False):
        asking.answer(answer)
    assert asking.claims()
    asking.answer(AWAY)
    assert isinstance(asking.effect, Pause), "before the next try"
    asking.answer(False)
    assert asking.pings()
    asking.answer()
    assert asking.rests(HEAD_START), "the leases of owners may have run out in that outage, too"
    asking.answer(False)
    assert asking.claims()


def test_a_process_whose_beats_are_not_answered_takes_nothing_though_the_store_answers_others() -> None:
    asking = Asking(away=True)
    assert asking.pings()
    asking.answer()
    assert asking.rests(HEAD_START)
    asking.answer(False)
    for _ in range(3):
        assert asking.rests(RETRY_RENEWAL), "nobody would renew the lease that it got"
        asking.answer(False)
    asking.is_away = False
    asking.answer(False)
    assert asking.claims()


def test_a_process_that_is_told_to_stop_while_owners_go_first_asks_for_nothing() -> None:
    asking = Asking(away=True)
    asking.answer()
    assert asking.rests(HEAD_START)
    asking.stopping.set()
    asking.answer(True)
    assert asking.pings(), "the answer to its claim was lost, so it may have been given the job"
    asking.answer()
    with pytest.raises(WorkerStopping):
        asking.answer(True)


def test_what_may_have_been_given_in_an_outage_is_given_back_after_the_head_start_of_owners() -> None:
    asking = Asking(away=True, unheard=True)
    assert asking.pings()
    asking.answer()
    assert asking.rests(HEAD_START), "asked for now, it would be taken from an owner elsewhere"
    asking.is_away = False
    asking.answer(False)
    assert asking.claims()
    asking.answer(LEASE)
    assert isinstance(asking.effect, Record)
