"""Jobs that jobs send: which job that is, and how long the sender waits for a broker that is away."""

import threading
import uuid
from collections.abc import Sequence
from datetime import timedelta
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
from dramatiq import Message
from dramatiq.middleware import Shutdown

from jobkit.children import Children, child_id
from jobkit.contracts import Job
from jobkit.errors import BrokerUnavailable, LeaseLost, MessageTooLarge, TimeLimitExceeded
from jobkit.execution import MOMENT_OPTION, Execution
from jobkit.interrupts import Interrupts
from jobkit.patience import Patience, WorkerStopping
from jobkit.producer import SendsMessages, message_for
from jobkit.receipt import Receipt
from jobkit.store.base import JobKey, JobStore, Lease
from jobkit.store.memory import MemoryStore


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


class Kept:
    """A broker that takes everything."""

    def __init__(self) -> None:
        self.messages: list[Message[Any]] = []

    def send(self, messages: Sequence[Message[Any]], *, delay: timedelta = timedelta()) -> None:
        self.messages += messages

    def close(self) -> None: ...


PARENT = JobKey("work", "work", "parent")


def run_of(store: JobStore, job: JobKey, sent_at: int, job_round: int = 0) -> Execution:
    """A run of the job that was sent then, and sent again so often."""
    lease = store.acquire(job, uuid.uuid4().hex, ttl=timedelta(minutes=1), sent_at=sent_at, job_round=job_round)
    assert isinstance(lease, Lease)
    message: Message[Any] = Message("work", job.actor, (), {}, {}, message_timestamp=sent_at)
    execution = Execution(message, job, lease.owner)
    execution.begin_under(lease)
    return execution


def send(
    sender: SendsMessages,
    over: threading.Event,
    interrupts: Interrupts,
    key: str | None = None,
    child_key: str | None = None,
    parent: Execution | None = None,
    store: JobStore | None = None,
) -> Receipt:
    patience = Patience(threading.Event(), over, first=0.005, longest=0.01)
    store = store or MemoryStore()
    children = Children(sender, patience, interrupts, store)
    parent = parent or run_of(store, PARENT, 1)
    return children.send(parent, Step(), lane="normal", key=key, child_key=child_key, delay=timedelta())


@pytest.mark.parametrize("argument", ["key", "child_key"])
@pytest.mark.parametrize("key", ["", " ", "caf\udce9"])
def test_a_key_that_cannot_tell_jobs_apart_is_refused(
    key: str, argument: str, over: threading.Event, interrupts: Interrupts
) -> None:
    sender = Away(AssertionError("nothing is sent"))
    with pytest.raises(ValueError, match=f"^{argument}="):
        send(sender, over, interrupts, *((key, None) if argument == "key" else (None, key)))
    assert not sender.tries


def test_a_job_has_one_key(over: threading.Event, interrupts: Interrupts) -> None:
    sender = Away(AssertionError("nothing is sent"))
    with pytest.raises(ValueError, match="not both"):
        send(sender, over, interrupts, key="invoice/17", child_key="invoice")
    assert not sender.tries


def test_a_key_is_the_same_job_for_jobs_and_producers(over: threading.Event, interrupts: Interrupts) -> None:
    sender, store = Kept(), MemoryStore()
    parents = [run_of(store, JobKey("work", "work", name), 1) for name in ("a", "b")]
    by_jobs = {send(sender, over, interrupts, "invoice/17", parent=one, store=store).job_id for one in parents}
    assert by_jobs == {message_for(Step(), key="invoice/17").message_id}


def test_the_number_of_a_child_counts_all_sends_before_it(over: threading.Event, interrupts: Interrupts) -> None:
    sender, store = Kept(), MemoryStore()
    parent = run_of(store, PARENT, 1)
    for key, child_key in (("invoice/17", None), (None, "report")):
        send(sender, over, interrupts, key, child_key, parent, store)
    assert send(sender, over, interrupts, parent=parent, store=store).job_id == child_id(PARENT, Step(), 3)


def moments(sender: Kept) -> list[object]:
    return [message.options[MOMENT_OPTION] for message in sender.messages]


def test_children_without_a_key_take_the_moment_of_their_parent(over: threading.Event, interrupts: Interrupts) -> None:
    sender = Kept()
    send(sender, over, interrupts)
    send(sender, over, interrupts, child_key="report")
    assert moments(sender) == [1, 1]


def test_a_send_by_key_has_one_moment_in_all_runs_of_its_parent(
    over: threading.Event, interrupts: Interrupts, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender, store, hours = Kept(), MemoryStore(), count(100, 3600)
    monkeypatch.setattr("jobkit.producer.time", SimpleNamespace(time=lambda: next(hours)))
    for _ in range(2):  # the second repeats the first
        parent = run_of(store, PARENT, 1)
        send(sender, over, interrupts, "invoice/17", parent=parent, store=store)
        assert parent.lease is not None
        assert store.release(parent.lease, delay=timedelta(), counted=True, failure="after its send")
    send(sender, over, interrupts, "invoice/18", parent=run_of(store, PARENT, 1), store=store)
    send(sender, over, interrupts, "invoice/17", parent=run_of(store, JobKey("work", "work", "b"), 1), store=store)
    assert moments(sender) == [100_000, 100_000, 7_300_000, 10_900_000]


def test_a_parent_that_is_sent_again_after_its_death_sends_at_a_moment_of_its_own(
    over: threading.Event, interrupts: Interrupts, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender, store, hours = Kept(), MemoryStore(), count(100, 3600)
    monkeypatch.setattr("jobkit.producer.time", SimpleNamespace(time=lambda: next(hours)))
    for sent_at in (1, 2):
        parent = run_of(store, PARENT, sent_at)
        send(sender, over, interrupts, "invoice/17", parent=parent, store=store)
        assert parent.lease is not None
        assert store.bury(parent.lease, failure="after its send")
    assert moments(sender) == [100_000, 3_700_000]


def test_children_without_a_key_take_the_round_of_their_parent(over: threading.Event, interrupts: Interrupts) -> None:
    sender, store = Kept(), MemoryStore()
    for job_round in (0, 1, 2):
        parent = run_of(store, PARENT, 7, job_round)
        send(sender, over, interrupts, child_key="report", parent=parent, store=store)
        assert parent.lease is not None
        assert store.bury(parent.lease, failure="after its send")
    assert [message.options for message in sender.messages] == [
        {"round": 7},
        {"round": 7, "job_round": 1},
        {"round": 7, "job_round": 2},
    ]


def test_a_send_by_key_of_a_parent_that_was_sent_again_is_a_new_send(
    over: threading.Event, interrupts: Interrupts, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender, store, hours = Kept(), MemoryStore(), count(100, 3600)
    monkeypatch.setattr("jobkit.producer.time", SimpleNamespace(time=lambda: next(hours)))
    for job_round in (0, 1):
        parent = run_of(store, PARENT, 7, job_round)
        for _ in range(2):
            send(sender, over, interrupts, "invoice/17", parent=parent, store=store)
        assert parent.lease is not None
        assert store.bury(parent.lease, failure="after its sends")
    assert moments(sender) == [100_000, 100_000, 7_300_000, 7_300_000]
    assert {"job_round"} & set().union(*(message.options for message in sender.messages)) == set()


def test_a_parent_that_lost_its_lease_sends_nothing(over: threading.Event, interrupts: Interrupts) -> None:
    sender, store = Kept(), MemoryStore()
    parent = run_of(store, PARENT, 1)
    assert parent.lease is not None
    store.release(parent.lease, delay=timedelta(), counted=False)
    run_of(store, PARENT, 1)
    with pytest.raises(LeaseLost):
        send(sender, over, interrupts, "invoice/17", parent=parent, store=store)
    assert not sender.messages


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
