"""One connection's life: what came over it, and what is to be said about that.

What was delivered over a connection can be settled over that connection only: each delivery knows its session, and a
session that is gone drops the ack, because the broker has already given the message to somebody else.
"""

import threading
from collections import deque
from contextlib import suppress
from enum import Enum
from typing import Any

import pika
import pika.exceptions
from dramatiq import Message
from dramatiq.broker import MessageProxy
from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection

from jobkit.broker.connection import CONNECTION_LOST

#: Seconds that a settlement may wait for company.
_LONGEST_SILENCE = 0.1


class Settlement(Enum):
    """What becomes of a delivery."""

    ACK = "ack"
    REQUEUE = "requeue"  # as it was: from RabbitMQ 4.3 on this does not count towards the delivery limit
    RETURN = "return"  # something went wrong: this counts
    REJECT = "reject"  # to the dead-letter exchange, by the broker


class RabbitmqDelivery(MessageProxy):
    """A message together with the session over which it came."""

    def __init__(self, message: Message[Any], session: "Session", tag: int, *, redelivered: bool = False) -> None:
        super().__init__(message)
        # Here, they are found at once: the proxy looks for each only after it was not found.
        self.queue_name, self.actor_name, self.message_id = message.queue_name, message.actor_name, message.message_id
        self.args, self.kwargs, self.options = message.args, message.kwargs, message.options
        self.session = session
        self.tag = tag
        self.redelivered = redelivered
        # Once its session is over, the broker delivers the message again, and it cannot be settled here.
        self.is_stale = lambda: session.is_over


class Session:
    """A channel on a connection of its own that consumes one queue.

    Worker threads settle; the consumer's thread alone touches the connection. Settlements gather until it comes by, or
    until half of what may be prefetched has gathered, and an unbroken run of acks goes out as one frame. What is
    lost with the connection meanwhile is delivered again and answered from its record.
    """

    def __init__(self, connection: BlockingConnection, queue: str, prefetch: int) -> None:
        self.connection = connection
        self.channel: BlockingChannel = connection.channel()
        # The channel beneath the blocking one, which would wait for each frame to have left. Here they leave together,
        # when the connection is used next.
        self._frames: Any = self.channel._impl
        self._queue = queue
        self.arrived: deque[tuple[Any, pika.BasicProperties, bytes]] = deque()
        self._open_tags: dict[int, Settlement | None] = {}  # in order of delivery
        self._settled: deque[tuple[int, Settlement]] = deque()
        self._prefetch = prefetch
        self._wake_at = max(1, prefetch // 2)
        self._wake_lock = threading.Lock()
        self._wake_pending = False
        self._cancelled = False
        self._over = False
        self.channel.basic_qos(prefetch_count=prefetch)
        self.channel.add_on_cancel_callback(self._on_cancelled)
        self._consumer_tag = self.channel.basic_consume(queue, self._on_delivery)
        self._extra_tag: str | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing that came over it can be settled any more: the broker has taken it back."""
        return self._over or not self.channel.is_open

    def settle(self, tag: int, settlement: Settlement) -> None:
        """Say what becomes of a delivery; from any thread, at any time, even after the session's end."""
        self._settled.append((tag, settlement))
        if len(self._settled) < self._wake_at:
            return
        with self._wake_lock:
            if self._wake_pending or not self.connection.is_open:
                return
            self._wake_pending = True
        # If the connection has closed just now, so has all that was delivered over it.
        with suppress(pika.exceptions.ConnectionWrongStateError):
            self.connection.add_callback_threadsafe(self._flush)

    def wait(self, timeout: float) -> None:
        """Exchange data with the broker until something arrives or ``timeout`` seconds have passed."""
        self._flush()
        self.connection.process_data_events(min(timeout, _LONGEST_SILENCE))
        if not self.channel.is_open:
            # Pika keeps the broker's words to itself: such as that an ack was overdue (consumer_timeout).
            reason = getattr(self.channel, "_closing_reason", None)
            raise pika.exceptions.AMQPChannelError(f"the broker has closed the channel: {reason}")
        if self._over:
            raise pika.exceptions.AMQPChannelError(
                "the broker has cancelled the consumer: its queue has moved or was deleted, or an ack is overdue "
                "(consumer_timeout)"
            )

    def take_ahead(self, more: int) -> None:
        """Let the broker send so many further messages ahead; 0 takes that back."""
        if self._extra_tag is not None:
            self.channel.basic_cancel(self._extra_tag)
            self._extra_tag = None
        # A second consumer: what the first one holds would be put back if that was cancelled for a larger one.
        if more:
            self.channel.basic_qos(prefetch_count=more)
            self._extra_tag = self.channel.basic_consume(self._queue, self._on_delivery)
        self._wake_at = max(1, (self._prefetch + more) // 2)

    def ready(self) -> int:
        """Return how many messages wait in the queue, or 0 if the broker cannot tell now."""
        with suppress(pika.exceptions.ChannelClosedByBroker):  # a channel of its own, as such an error closes it
            channel = self.connection.channel()
            found: int = channel.queue_declare(self._queue, passive=True).method.message_count
            channel.close()
            return found
        return 0

    def stop_taking(self) -> None:
        """Ask for no more, and give back what no worker thread has seen."""
        if self.channel.is_open and not self._cancelled:
            self._cancelled = True
            for tag in (self._consumer_tag, self._extra_tag):
                if tag is not None:
                    self.channel.basic_cancel(tag)
        while self.arrived:
            method, _properties, _body = self.arrived.popleft()
            self._settled.append((method.delivery_tag, Settlement.REQUEUE))
        self._flush()

    def close(self) -> None:
        """Send what is settled and close; the broker takes back the rest.

        After a cancel by the broker nothing is sent: it has taken back all of it.
        """
        with suppress(*CONNECTION_LOST):  # it was gone before it could be closed
            if self.connection.is_open:
                self._flush()  # before it is over, as nothing is sent after that
                self._over = True
                self.connection.close()
        self._over = True
        self._settled.clear()

    def _on_delivery(self, _channel: Any, method: Any, properties: pika.BasicProperties, body: bytes) -> None:
        self._open_tags[method.delivery_tag] = None
        self.arrived.append((method, properties, body))

    def _on_cancelled(self, _frame: Any) -> None:
        # From now on none of its deliveries is ours. RabbitMQ 4.3 does this instead of closing the channel if an ack is
        # overdue, and has given the messages to others: an ack would be wrong, and the consumer has to subscribe again.
        self._cancelled = self._over = True

    def _flush(self) -> None:
        with self._wake_lock:
            self._wake_pending = False
        if self._over or not self.channel.is_open:
            return
        while self._settled:
            tag, settlement = self._settled.popleft()
            if tag in self._open_tags:
                self._open_tags[tag] = settlement
        self._ack_unbroken_run()
        for tag, decided in [(t, settlement) for t, settlement in self._open_tags.items() if settlement]:
            del self._open_tags[tag]
            if decided is Settlement.ACK:
                self._frames.basic_ack(tag)
            elif decided is Settlement.RETURN:
                self._frames.basic_reject(tag, requeue=True)
            else:
                self._frames.basic_nack(tag, requeue=decided is Settlement.REQUEUE)

    def _ack_unbroken_run(self) -> None:
        run = []
        for tag, settlement in self._open_tags.items():
            if settlement is not Settlement.ACK:
                break
            run.append(tag)
        if len(run) > 1:
            for tag in run:
                del self._open_tags[tag]
            self._frames.basic_ack(run[-1], multiple=True)
