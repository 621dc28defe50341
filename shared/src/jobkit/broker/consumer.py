"""Taking messages off one queue.

A consumer reconnects by itself, with backoff, for as long as its worker runs. What was delivered over a connection can
be settled over that connection only: each delivery knows its session, and a session that is gone drops the ack, because
the broker has already given the message to somebody else.
"""

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

import pika
import pika.exceptions
from dramatiq import Message
from dramatiq.broker import Consumer, MessageProxy
from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection

from jobkit.broker.envelope import decode
from jobkit.deadletters import Failure, Reason, has_been_dead
from jobkit.errors import JobkitError, MessageTooLarge, SendError, TopologyMismatch, Undecodable, UnknownActor
from jobkit.execution import execution_of

if TYPE_CHECKING:
    from jobkit.broker.rabbitmq import JobBroker

_LONGEST_PAUSE: Final = 2.0
_CONNECTION_LOST: Final = (pika.exceptions.AMQPError, AssertionError, OSError)

#: What is dead-lettered before Dramatiq sees it.
_REFUSALS: Final[dict[type[JobkitError], Reason]] = {
    MessageTooLarge: Reason.TOO_LARGE,
    Undecodable: Reason.UNDECODABLE,
    UnknownActor: Reason.UNKNOWN_ACTOR,
}

log = logging.getLogger(__name__)


class Settlement(Enum):
    """What becomes of a delivery."""

    ACK = "ack"
    REQUEUE = "requeue"
    REJECT = "reject"  # to the dead-letter exchange, by the broker


class RabbitmqDelivery(MessageProxy):
    """A message together with the session over which it came."""

    def __init__(
        self, message: Message[Any], session: "Session", tag: int, *, redelivered: bool, revived: bool
    ) -> None:
        super().__init__(message)
        self.session = session
        self.tag = tag
        self.redelivered = redelivered
        self.revived = revived


class Session:
    """One connection's life: its channel, what came over it, and what is to be said about that.

    Worker threads settle; the consumer's thread alone touches the connection. Settlements gather while it is busy, and
    an unbroken run of acks goes out as one frame.
    """

    def __init__(self, connection: BlockingConnection, queue: str, prefetch: int) -> None:
        self.connection = connection
        self.channel: BlockingChannel = connection.channel()
        self.arrived: deque[tuple[Any, pika.BasicProperties, bytes]] = deque()
        self._open_tags: dict[int, Settlement | None] = {}  # in order of delivery
        self._settled: deque[tuple[int, Settlement]] = deque()
        self._wake_lock = threading.Lock()
        self._wake_pending = False
        self._cancelled = False
        self.channel.basic_qos(prefetch_count=prefetch)
        self.channel.add_on_cancel_callback(self._on_cancelled)
        self._consumer_tag = self.channel.basic_consume(queue, self._on_delivery)

    def settle(self, tag: int, settlement: Settlement) -> None:
        """Say what becomes of a delivery; from any thread, at any time, even after the session's end."""
        self._settled.append((tag, settlement))
        with self._wake_lock:
            if self._wake_pending or not self.connection.is_open:
                return
            self._wake_pending = True
        # If the connection has closed just now, so has all that was delivered over it.
        with suppress(pika.exceptions.ConnectionWrongStateError):
            self.connection.add_callback_threadsafe(self._flush)

    def wait(self, timeout: float) -> None:
        """Exchange data with the broker until something arrives or ``timeout`` seconds have passed."""
        self.connection.process_data_events(timeout)
        if self._cancelled or not self.channel.is_open:
            raise pika.exceptions.AMQPChannelError("the broker has cancelled the consumer")

    def stop_taking(self) -> None:
        """Ask for no more, and give back what no worker thread has seen."""
        if self.channel.is_open and not self._cancelled:
            self._cancelled = True
            self.channel.basic_cancel(self._consumer_tag)
        while self.arrived:
            method, _properties, _body = self.arrived.popleft()
            self._settled.append((method.delivery_tag, Settlement.REQUEUE))
        self._flush()

    def close(self) -> None:
        """Send what is settled and close; the broker takes back the rest."""
        try:
            if self.connection.is_open:
                self._flush()
                self.connection.close()
        except _CONNECTION_LOST:
            log.debug("the connection was gone before it could be closed")

    def _on_delivery(self, _channel: Any, method: Any, properties: pika.BasicProperties, body: bytes) -> None:
        self._open_tags[method.delivery_tag] = None
        self.arrived.append((method, properties, body))

    def _on_cancelled(self, _frame: Any) -> None:
        self._cancelled = True  # the queue was deleted or has moved: consume anew

    def _flush(self) -> None:
        with self._wake_lock:
            self._wake_pending = False
        if not self.channel.is_open:
            return
        while self._settled:
            tag, settlement = self._settled.popleft()
            if tag in self._open_tags:
                self._open_tags[tag] = settlement
        self._ack_unbroken_run()
        for tag, decided in [(t, settlement) for t, settlement in self._open_tags.items() if settlement]:
            del self._open_tags[tag]
            if decided is Settlement.ACK:
                self.channel.basic_ack(tag)
            else:
                self.channel.basic_nack(tag, requeue=decided is Settlement.REQUEUE)

    def _ack_unbroken_run(self) -> None:
        run = []
        for tag, settlement in self._open_tags.items():
            if settlement is not Settlement.ACK:
                break
            run.append(tag)
        if len(run) > 1:
            for tag in run:
                del self._open_tags[tag]
            self.channel.basic_ack(run[-1], multiple=True)


class RabbitmqConsumer(Consumer):
    """What Dramatiq's consumer thread drives: an endless iterator over one queue."""

    def __init__(self, broker: "JobBroker", queue: str, prefetch: int, timeout: int) -> None:
        self._broker = broker
        self._queue = queue
        self._prefetch = prefetch
        self._timeout = timeout / 1000
        self._session: Session | None = None
        self._pause = 0.1
        self._retry_at = 0.0
        self._was_connected = False

    def __next__(self) -> MessageProxy | None:
        session = self._session or self._connect()
        if session is None:
            return None
        try:
            if self._broker.stopping.is_set():
                session.stop_taking()
                session.connection.process_data_events(min(self._timeout, 0.1))
                return None
            if not session.arrived:
                session.wait(self._timeout)
        except _CONNECTION_LOST as error:
            self._lose(session, error)
            return None
        if not session.arrived:
            return None
        return self._accept(session, *session.arrived.popleft())

    def ack(self, message: MessageProxy) -> None:
        execution = execution_of(message)
        unfinished = execution is not None and not execution.settled
        self._settle(message, Settlement.REQUEUE if unfinished else Settlement.ACK)

    def nack(self, message: MessageProxy) -> None:
        self._settle(message, Settlement.REJECT)

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        for message in messages:
            self._settle(message, Settlement.REQUEUE)

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def _settle(self, message: MessageProxy, settlement: Settlement) -> None:
        if isinstance(message, RabbitmqDelivery):
            message.session.settle(message.tag, settlement)

    def _accept(
        self, session: Session, method: Any, properties: pika.BasicProperties, body: bytes
    ) -> MessageProxy | None:
        try:
            self._check_size(body)
            message = decode(body, properties, self._queue)
            self._check_actor(message.actor_name)
        except tuple(_REFUSALS) as error:
            self._bury(session, method.delivery_tag, body, properties, error, _REFUSALS[type(error)])
            return None
        return RabbitmqDelivery(
            message,
            session,
            method.delivery_tag,
            redelivered=method.redelivered,
            revived=has_been_dead(properties.headers),
        )

    def _check_size(self, body: bytes) -> None:
        limit = self._broker.max_message_bytes * 2  # what a sender may send grows a little with every retry
        if len(body) > limit:
            raise MessageTooLarge(f"the body is {len(body):,} bytes long, the limit is {limit:,}")

    def _check_actor(self, name: str) -> None:
        if name not in self._broker.actors:
            raise UnknownActor(f"no actor {name[:100]!r} runs on queue {self._queue!r}")

    def _bury(
        self,
        session: Session,
        tag: int,
        body: bytes,
        properties: pika.BasicProperties,
        error: Exception,
        reason: Reason,
    ) -> None:
        actor, now = str(properties.type or ""), int(time.time() * 1000)
        failure = Failure.of(error, reason, actor=actor, queue=self._queue, died_at=now)
        log.error("dead-lettered a message from %s: %s", self._queue, error)
        try:
            self._broker.publish_dead_letter(body, properties, failure)
        except SendError as refusal:
            log.warning("its dead-letter record was not confirmed, so it goes back to the queue: %s", refusal)
            time.sleep(1)  # a requeued message comes back at once: without a pause this would spin
            session.settle(tag, Settlement.REQUEUE)
        else:
            session.settle(tag, Settlement.ACK)

    def _connect(self) -> Session | None:
        pause = self._retry_at - time.monotonic()
        if self._broker.stopping.is_set():
            time.sleep(min(self._timeout, 0.1))
            return None
        if pause > 0:
            self._broker.stopping.wait(min(self._timeout, pause))
            return None
        try:
            connection = self._broker.connection_settings.open()
            try:
                self._broker.declare_on(connection.channel(), self._queue)
                self._session = Session(connection, self._queue, self._prefetch)
            except BaseException:
                connection.close()
                raise
        except TopologyMismatch as error:
            self._broker.give_up(error)
            return None
        except _CONNECTION_LOST as error:
            self._broker.report_outage(error, first=not self._was_connected)
            self._back_off()
            return None
        if self._pause > 0.1:
            log.info("taking messages from %s again", self._queue)
        self._broker.report_connected()
        self._was_connected, self._pause = True, 0.1
        return self._session

    def _lose(self, session: Session, error: BaseException) -> None:
        if self._session is session:
            self._session = None
        session.close()
        if not self._broker.stopping.is_set():
            log.warning(
                "the connection for %s was lost, its jobs go on: %s", self._queue, str(error) or type(error).__name__
            )
        self._back_off()

    def _back_off(self) -> None:
        self._retry_at = time.monotonic() + self._pause * random.uniform(0.5, 1.0)  # noqa: S311  jitter, not a secret
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)
