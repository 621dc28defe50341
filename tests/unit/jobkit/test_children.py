"""Sending from within a job while the broker is away: until it is back, or the job may not wait any longer."""

import threading
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from dramatiq import Message
from dramatiq.middleware import Shutdown

from jobkit.children import Children, child_id
from jobkit.contracts import Job
from jobkit.errors import BrokerUnavailable, MessageTooLarge, TimeLimitExceeded
from jobkit.execution import Execution
from jobkit.interrupts import Interrupts
from jobkit.patience import Patience, WorkerStopping
from jobkit.store.base import JobKey


class Step(Job, queue="next"):
    """What is sent."""


class Away:
    """A broker that is not there."""

    def __init__(self, error: Exception) -> None:
        self.tries = 0
        self.tried = threading.Event()
        self._error = error

    def send(self, messages: Sequence[Message[Any]], *, delay: timedelta = timedelta()) -> None:
        self.tries += 1
        self.tried.set()
        raise self._error

    def close(self) -> None: ...


@pytest.fixture
def over() -> threading.Event:
    return threading.Event()


@pytest.fixture
def interrupts() -> Interrupts:
    return Interrupts()


def send(sender: Away, over: threading.Event, interrupts: Interrupts, key: str | None = None) -> None:
    patience = Patience(threading.Event(), over, first=0.005, longest=0.01)
    message: Message[Any] = Message("work", "work", (), {}, {})
    parent = Execution(message, JobKey("work", "work", "parent"))
    Children(sender, patience, interrupts).send(parent, Step(), lane="normal", key=key, delay=timedelta())


@pytest.mark.parametrize("key", ["", " ", "caf\udce9"])
def test_a_key_that_cannot_tell_jobs_apart_is_refused(key: str, over: threading.Event, interrupts: Interrupts) -> None:
    sender = Away(AssertionError("nothing is sent"))
    with pytest.raises(ValueError, match="key="):
        send(sender, over, interrupts, key)
    assert not sender.tries


def test_the_time_limit_of_the_job_ends_the_wait(over: threading.Event, interrupts: Interrupts) -> None:
    sender = Away(BrokerUnavailable("no broker"))
    with pytest.raises(TimeLimitExceeded):
        interrupts.run(lambda: send(sender, over, interrupts), limit=0.1)
    assert sender.tries > 1


def test_an_interrupt_ends_the_wait(over: threading.Event, interrupts: Interrupts) -> None:
    sender = Away(BrokerUnavailable("no broker"))
    raised: list[BaseException] = []

    def job() -> None:
        try:
            interrupts.run(lambda: send(sender, over, interrupts), limit=60)
        except Shutdown as interrupt:
            raised.append(interrupt)

    thread = threading.Thread(target=job, daemon=True)
    thread.start()
    assert sender.tried.wait(5)
    assert interrupts.interrupt_all(Shutdown) == 1
    thread.join(5)
    assert len(raised) == 1


def test_the_stop_limit_ends_the_wait(over: threading.Event, interrupts: Interrupts) -> None:
    over.set()
    with pytest.raises(WorkerStopping):
        interrupts.run(lambda: send(Away(BrokerUnavailable("no broker")), over, interrupts), limit=60)


def test_what_can_never_be_sent_is_not_waited_for(over: threading.Event, interrupts: Interrupts) -> None:
    sender = Away(MessageTooLarge("too large"))
    with pytest.raises(MessageTooLarge):
        interrupts.run(lambda: send(sender, over, interrupts), limit=60)
    assert sender.tries == 1


class Mail(Job, queue="mail"):
    """A job of another kind."""


class SendNext(Job, queue="next.urgent"):
    """Another kind, of the same service."""


def test_no_two_children_have_one_id() -> None:
    parents = [
        JobKey("shop", "charge", "order-17"),
        JobKey("shop", "ship", "order-17"),
        JobKey("depot", "ship", "order-17"),
        JobKey("shop", "ship", "order-17/step/1"),
    ]
    names: list[str | int] = [1, "1", 2, "2", "step/1", "1/step"]
    kinds = [Step(), Mail(), SendNext()]
    ids = [child_id(parent, kind, name) for parent in parents for kind in kinds for name in names]
    assert len(set(ids)) == len(ids)


def test_the_same_child_has_the_same_id_in_all_versions() -> None:
    told = child_id(JobKey("shop", "charge", "order-17"), Mail(), "receipt")
    assert told == "873f0fe7-67c1-59ee-b116-7969ce86fd12"
