"""What a delivery takes it gives back, and one whose connection is gone is left to the broker."""

import threading
from collections.abc import Sequence
from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from dramatiq import Message
from dramatiq.broker import MessageProxy
from dramatiq.middleware import SkipMessage

from jobkit.broker.consumer import RabbitmqConsumer
from jobkit.broker.session import RabbitmqDelivery, Session, Settlement
from jobkit.effects import Pause
from jobkit.errors import BrokerUnavailable, StoreUnavailable
from jobkit.execution import current, received
from jobkit.interrupts import Interrupts
from jobkit.leases import LeaseKeeper
from jobkit.middleware.idempotency import Idempotency
from jobkit.middleware.retries import Retries
from jobkit.patience import Patience
from jobkit.run.carrier import Carrier
from jobkit.run.path import Path
from jobkit.run.seams import Seams
from jobkit.store.base import Finished, Held, JobState, Lease, Suspect
from jobkit.store.memory import MemoryStore
from jobkit.waits import Limits

TTL = timedelta(seconds=15)

Answer = Lease | Held | Suspect | Finished | Exception


@pytest.fixture(autouse=True)
def no_renewals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here lasts as long as a lease."""
    monkeypatch.setattr(LeaseKeeper, "start", lambda _keeper: None)


class Worker:
    """The path over a store that answers as the test says."""

    def __init__(self, *answers: Answer) -> None:
        self.store, self.broker = Mock(), Mock()
        self.broker.get_actor.return_value = SimpleNamespace(options={})
        self.store.acquire.side_effect = [*answers]
        self.store.acquire_all = lambda claims, _ttl: [self.store.acquire(claim) for claim in claims]
        self.store.end_all = lambda records: [MemoryStore._end(self.store, one.lease, one.end) for one in records]
        self.stopping = threading.Event()
        patience = Patience(self.stopping, threading.Event(), first=0.01)
        patience.rest = lambda seconds=0.0: Pause(0.0, self.stopping)  # type: ignore[method-assign]  # no wait in a test
        keeper = LeaseKeeper(self.store, Interrupts(), TTL, Mock())
        path = Path(
            Idempotency(self.store, self.broker, patience, keeper.store_was_away, max_crashes=3),
            Mock(),
            Retries(self.broker, patience),
            keeper,
            patience,
            Limits(),
        )
        self.middleware = Carrier(path, Seams(self.store, TTL))

    def deliver(self, message: MessageProxy) -> None:
        """Take a delivery to its end, as Dramatiq does."""
        try:
            self.middleware.before_process_message(self.broker, message)
        except SkipMessage:
            self.middleware.after_skip_message(self.broker, message)
        else:
            self.middleware.after_process_message(self.broker, message)


def message(job_id: str = "id") -> Message[Any]:
    return Message("work", "work", (), {}, {}, job_id, 1)


def lease(crashes: int = 0) -> Lease:
    return Lease(Mock(), "owner", 1, 1, crashes)


@pytest.mark.parametrize(
    "refusal",
    [
        Held(timedelta(seconds=5), JobState.RUNNING),
        Finished(JobState.DONE),
        Suspect(2),
        RuntimeError("a mistake in the store"),
    ],
    ids=["held", "done", "suspect", "error"],
)
def test_the_turn_of_a_job_on_its_last_chance_is_given_back_when_it_gets_no_lease(refusal: Answer) -> None:
    worker = Worker(Suspect(2), refusal, Suspect(2), lease())
    first, second = (MessageProxy(message(name)) for name in ("first", "second"))
    worker.deliver(first)
    worker.middleware.before_process_message(worker.broker, second)
    execution = current()
    assert execution is not None
    assert execution.lease is not None, "the next one on its last chance has its turn"


def delivery(*, over: bool = False) -> tuple[RabbitmqDelivery, Mock]:
    session = Mock(is_over=over)
    return RabbitmqDelivery(message(), session, 1), session


def test_a_delivery_whose_connection_is_gone_asks_for_no_lease_and_publishes_nothing() -> None:
    worker, (stale, _) = Worker(), delivery(over=True)
    worker.deliver(stale)
    worker.store.acquire.assert_not_called()
    worker.broker.enqueue.assert_not_called()


def test_a_stale_delivery_gives_back_the_lease_that_it_may_have_got_ahead() -> None:
    worker, (stale, _) = Worker(lease()), delivery(over=True)
    received(stale, "owner").unheard = True
    worker.deliver(stale)
    worker.store.release.assert_called_once()


def test_a_delivery_whose_connection_is_lost_while_the_store_is_asked_publishes_no_copy() -> None:
    (stale, session) = delivery()
    worker = Worker()

    def answer(*_: object, **__: object) -> Held:
        session.is_over = True
        return Held(timedelta(seconds=5), JobState.RUNNING)

    worker.store.acquire.side_effect = answer
    worker.deliver(stale)
    worker.broker.enqueue.assert_not_called()


def test_a_delivery_whose_connection_is_lost_while_it_gets_its_lease_runs_and_counts_no_crash() -> None:
    (stale, session) = delivery()
    worker = Worker()

    def answer(*_: object, **__: object) -> Lease:
        session.is_over = True
        return lease()

    worker.store.acquire.side_effect = answer
    worker.middleware.before_process_message(worker.broker, stale)
    execution = current()
    assert execution is not None
    assert execution.lease is not None


@pytest.mark.parametrize("skips", [True, False], ids=["skips", "raises"])
def test_a_lease_that_was_got_ahead_is_given_back_when_a_hook_before_the_path_ends_its_delivery(skips: bool) -> None:
    worker, (ahead, _) = Worker(), delivery()
    received(ahead, "owner").answer = lease()
    if skips:
        worker.middleware.after_skip_message(worker.broker, ahead)
    else:
        worker.middleware.after_process_message(worker.broker, ahead, exception=RuntimeError("in another hook"))
    worker.store.release.assert_called_once()


def test_a_lease_whose_answer_was_lost_is_given_back_when_the_worker_stops() -> None:
    given = lease()
    worker = Worker()

    def answer(*_: object, **__: object) -> Lease:
        if not worker.stopping.is_set():
            worker.stopping.set()
            raise StoreUnavailable("the lease is given, and the answer lost")
        return given

    worker.store.acquire.side_effect = answer
    worker.deliver(MessageProxy(message()))
    worker.store.release.assert_called_once_with(given, delay=timedelta(), counted=False, failure="", waits_for="")


def test_a_worker_that_stops_while_the_store_is_away_waits_for_nothing() -> None:
    worker = Worker(StoreUnavailable("away"), StoreUnavailable("away"))
    worker.store.ping.side_effect = StoreUnavailable("away")
    threading.Timer(0.05, worker.stopping.set).start()
    worker.deliver(MessageProxy(message()))
    worker.store.release.assert_not_called()


def test_a_job_whose_lease_cannot_be_renewed_does_not_run_and_gives_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_keeper: LeaseKeeper, _lease: Lease, _thread: int) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(LeaseKeeper, "keep", fail)
    given = lease()
    worker = Worker(given)
    one = MessageProxy(message())
    with pytest.raises(SkipMessage):
        worker.middleware.before_process_message(worker.broker, one)
    worker.middleware.after_skip_message(worker.broker, one)
    worker.store.release.assert_called_once_with(given, delay=timedelta(), counted=False, failure="", waits_for="")
    worker.store.complete.assert_not_called()


def test_a_delivery_whose_connection_is_lost_while_its_copy_waits_for_the_broker_publishes_none() -> None:
    (stale, session) = delivery()
    worker = Worker(Held(timedelta(seconds=5), JobState.RUNNING))

    def refuse(*_: object, **__: object) -> None:
        session.is_over = True
        raise BrokerUnavailable("away")

    worker.broker.enqueue.side_effect = refuse
    worker.deliver(stale)
    assert worker.broker.enqueue.call_count == 1


class Channel:
    """A channel of pika's that writes down what is said over it."""

    def __init__(self) -> None:
        self.said: list[tuple[object, ...]] = []
        self._impl = self
        self.is_open = True
        self.on_cancel: Any = None

    def basic_qos(self, **_: object) -> None: ...

    def add_on_cancel_callback(self, callback: object) -> None:
        self.on_cancel = callback

    def basic_consume(self, _queue: str, callback: Any) -> str:
        self.deliver = callback
        return "tag"

    def basic_cancel(self, _tag: str) -> None:
        self.said.append(("cancel",))

    def basic_ack(self, tag: int, multiple: bool = False) -> None:
        self.said.append(("ack up to", tag) if multiple else ("ack", tag))

    def basic_nack(self, tag: int, requeue: bool) -> None:
        self.said.append(("nack", tag))

    def basic_reject(self, tag: int, requeue: bool) -> None:
        self.said.append(("reject", tag))


def session_over(channel: Channel, tags: Sequence[int] = (1, 2)) -> Session:
    connection = Mock(is_open=True)
    connection.channel.return_value = channel
    session = Session(connection, "work", prefetch=16)
    for tag in tags:
        channel.deliver(channel, SimpleNamespace(delivery_tag=tag), None, b"")
    return session


def test_after_a_cancel_by_the_broker_nothing_that_came_before_it_is_settled() -> None:
    channel = Channel()
    session = session_over(channel)
    session.settle(1, Settlement.ACK)
    channel.on_cancel(None)
    session.settle(2, Settlement.REQUEUE)
    assert session.is_over
    with pytest.raises(Exception, match="consumer_timeout"):
        session.wait(0.1)
    session.close()
    assert channel.said == []


def test_one_ack_for_several_covers_nothing_that_still_runs() -> None:
    channel = Channel()
    session = session_over(channel, range(1, 9))
    for tag in (1, 2, 4, 5, 6, 8):
        session.settle(tag, Settlement.ACK)
    session._flush()
    assert channel.said == [("ack up to", 2), ("ack", 4), ("ack", 5), ("ack", 6), ("ack", 8)]
    channel.said.clear()
    session.settle(3, Settlement.ACK)
    session._flush()
    assert channel.said == [("ack", 3)]


def test_what_was_settled_last_is_sent_before_the_connection_is_closed() -> None:
    channel = Channel()
    session = session_over(channel, [1, 2, 3])
    session.connection.close.side_effect = lambda: channel.said.append(("close",))  # type: ignore[attr-defined]
    session.settle(1, Settlement.ACK)
    session.settle(3, Settlement.REQUEUE)
    session.close()
    assert channel.said == [("ack", 1), ("nack", 3), ("close",)]
    assert session.is_over


def test_a_consumer_that_is_over_says_why_and_takes_no_more_ahead() -> None:
    channel = Channel()
    session = session_over(channel)
    consumer = RabbitmqConsumer(Mock(stopping=threading.Event()), "work", prefetch=16, timeout=100, ahead=lambda: 48)
    consumer._session = session
    channel.on_cancel(None)
    channel.basic_consume = Mock()  # type: ignore[method-assign]
    assert next(consumer) is None
    assert consumer._session is None
    channel.basic_consume.assert_not_called()  # there may be no such queue any more


def test_what_comes_from_a_cancelled_consumer_is_not_handed_on() -> None:
    channel = Channel()
    session = session_over(channel)
    host = Mock(stopping=threading.Event())
    consumer = RabbitmqConsumer(host, "work", prefetch=16, timeout=100)
    consumer._session = session
    channel.on_cancel(None)
    assert next(consumer) is None
    assert consumer._session is None, "it subscribes again"


@pytest.mark.parametrize(("stumbled", "said"), [(True, "reject"), (False, "nack")])
def test_only_what_went_wrong_counts_towards_the_delivery_limit(stumbled: bool, said: str) -> None:
    channel = Channel()
    session = session_over(channel, [7])
    worker = Worker(StoreUnavailable("away"), RuntimeError("a mistake")) if stumbled else Worker()
    if not stumbled:
        worker.stopping.set()
    back = RabbitmqDelivery(message(), session, 7)
    worker.deliver(back)
    consumer = RabbitmqConsumer(Mock(), "work", prefetch=16, timeout=100)
    consumer.ack(back)
    session._flush()
    assert channel.said == [(said, 7)]
