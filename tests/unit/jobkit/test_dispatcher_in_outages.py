"""Nothing is claimed before owners elsewhere had the time to renew their leases, whichever way it is claimed."""

from datetime import timedelta
from typing import Any
from unittest.mock import Mock

from dramatiq import Message

from jobkit.effects import Effect, take
from jobkit.execution import Execution
from jobkit.run.dispatcher import DEATH_PAUSE, Delivery, Dispatcher, tidy
from jobkit.store.base import Held, JobKey, JobState


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def dispatcher(clock: Clock, *, wise: list[bool]) -> Dispatcher:
    return Dispatcher(lambda _job: False, lambda: wise[0], lambda: "process:2", clock)


def redelivered() -> Delivery:
    message: Message[Any] = Message("work", "work", (), {}, {}, "id", 1)
    return Delivery(1, Execution(message, JobKey("work", "work", "id"), "process:1", redelivered=True))


def test_after_an_outage_what_was_delivered_again_is_claimed_by_its_thread_which_waits_for_the_owners() -> None:
    wise = [False]
    deliveries = dispatcher(Clock(), wise=wise)
    deliveries.put(redelivered())
    batch = deliveries.choose()
    assert len(batch) == 1
    assert not deliveries.needs_claim(batch), "the lease of a living owner may have run out while the store was away"
    wise[0] = True
    assert deliveries.needs_claim(batch)


def test_in_an_outage_no_job_of_a_worker_that_may_have_died_is_asked_for_again() -> None:
    clock, wise = Clock(), [True]
    deliveries, held = dispatcher(clock, wise=wise), redelivered()
    deliveries.deal([held], [Held(timedelta(seconds=15), JobState.RUNNING)])
    clock.now += 2 * DEATH_PAUSE
    wise[0] = False

    def ask(effect: Effect) -> object:
        raise AssertionError(f"asked {effect}")

    take(tidy(deliveries, Mock()), ask)
    assert deliveries.take() is None, "it waits, and uses up no question"
    wise[0] = True
    assert deliveries.due() == [held]
