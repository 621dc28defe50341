"""Publishing that returns when the broker has confirmed, and raises when it has not.

One thread per process owns one connection and its channel. Senders hand it messages and wait; it writes whatever has
gathered and matches the confirms that come back, so many senders share one round trip, and heartbeats are answered
while nobody sends.
"""

import logging
import os
import random
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import pika
import pika.exceptions
from pika.adapters.select_connection import IOLoop, SelectConnection
from pika.channel import Channel

from jobkit.broker.connection import ConnectionSettings
from jobkit.broker.outgoing import Batch, Entry, Outgoing
from jobkit.errors import BrokerUnavailable, SendRefused, Unroutable

#: Messages written ahead of their confirms. More gain no speed and cost memory.
WINDOW: Final = 1000

_LONGEST_PAUSE: Final = 2.0
_CLOSE_TIMEOUT: Final = 5.0

log = logging.getLogger(__name__)


class ConfirmedPublisher:
    """Publishes persistent messages, mandatory and with confirms, over one connection that it keeps alive.

    It connects at the first publish, in each process by itself, so it may be made before a fork. A message whose
    connection breaks before its confirm is published again: consumers must tell duplicates by their id.
    """

    def __init__(self, connection: ConnectionSettings) -> None:
        self._settings = connection
        self._start_over()
        # After a fork the parent's thread and socket are not ours, and its lock may be held by a thread that is gone.
        start_over = weakref.WeakMethod(self._start_over)
        os.register_at_fork(after_in_child=lambda: (start_over() or _nothing)())

    def publish(self, messages: Sequence[Outgoing], timeout: float) -> None:
        """Publish all and wait for their confirms.

        Raises:
            SendError: what went wrong with the first message that was not confirmed; each holds its own ``error``.
        """
        if not messages:
            return
        batch = Batch(len(messages))
        entries = [Entry(message, batch) for message in messages]
        with self._lock:
            self._ensure_running()
            self._waiting.extend(entries)
            if self._ioloop is not None:
                self._ioloop.add_callback_threadsafe(self._pump)
        if not batch.wait(timeout):
            self._abandon(batch, entries)
            reason = self._trouble or f"no confirm came from RabbitMQ at {self._settings.where} within {timeout:.3g} s"
            for message in messages:
                if not message.confirmed and message.error is None:
                    message.error = BrokerUnavailable(reason)
        for message in messages:
            if message.error is not None:
                raise message.error

    def close(self) -> None:
        """Close the connection; whoever still waits is told at its deadline."""
        with self._lock:
            self._closing = True
            thread, ioloop = self._thread, self._ioloop
        self._stop_pausing.set()
        if ioloop is not None:
            ioloop.add_callback_threadsafe(self._hang_up)
        # One that is still being made is closed once it is there; nobody waits for that, it may take its time-out.
        if thread is not None and self._connection is not None:
            thread.join(_CLOSE_TIMEOUT)

    def _start_over(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[Entry] = deque()
        self._in_flight: dict[int, Entry] = {}
        self._next_tag = 1
        self._thread: threading.Thread | None = None
        self._ioloop: IOLoop | None = None
        self._connection: SelectConnection | None = None
        self._channel: Channel | None = None
        self._distrusted = False
        self._closing = False
        self._stop_pausing = threading.Event()
        self._trouble = ""

    def _abandon(self, batch: Batch, entries: Sequence[Entry]) -> None:
        """Nobody waits for these any more: an outage must not fill the memory with what has failed."""
        batch.abandoned = True
        for entry in entries:
            with suppress(ValueError, IndexError):  # it is in flight, or the publisher has just taken it
                self._waiting.remove(entry)

    def _ensure_running(self) -> None:
        if self._closing:
            raise BrokerUnavailable("this publisher has been closed")
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="jobkit-publisher", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        pause = 0.1
        while not self._closing:
            started = time.monotonic()
            self._serve_one_connection()
            if time.monotonic() - started > _LONGEST_PAUSE:
                pause = 0.1
            if not self._closing:
                self._stop_pausing.wait(pause * random.uniform(0.5, 1.0))  # noqa: S311  jitter, not a secret
                pause = min(pause * 2, _LONGEST_PAUSE)

    def _serve_one_connection(self) -> None:
        ioloop = IOLoop()
        with self._lock:
            self._ioloop = ioloop
        try:
            SelectConnection.create_connection(self._settings.parameters(), self._on_connect_done, ioloop)
            ioloop.start()
        except Exception as error:  # whatever it was, the senders have deadlines and the thread must live
            self._say_trouble(error)
        finally:
            with self._lock:
                self._ioloop = None
            self._channel = self._connection = None
            self._take_back()
            ioloop.close()

    # Any: pika hands over a connection or one of several exception types that share no base.
    def _on_connect_done(self, outcome: Any) -> None:
        if isinstance(outcome, BaseException):
            self._say_trouble(outcome)
            self._stop_loop()
            return
        self._connection = outcome
        outcome.add_on_close_callback(self._on_connection_closed)
        if self._closing:
            self._hang_up()
        else:
            self._open_channel()

    def _open_channel(self) -> None:
        if self._connection is not None and self._connection.is_open:
            self._connection.channel(on_open_callback=self._on_channel_open)

    def _on_channel_open(self, channel: Channel) -> None:
        self._next_tag = 1
        self._distrusted = False
        channel.add_on_close_callback(self._on_channel_closed)
        channel.add_on_return_callback(self._on_returned)
        channel.confirm_delivery(self._on_confirm, callback=lambda _frame: self._start_publishing(channel))

    def _start_publishing(self, channel: Channel) -> None:
        if self._trouble:
            log.info("RabbitMQ at %s takes messages again", self._settings.where)
        self._trouble = ""
        self._channel = channel
        self._pump()

    def _pump(self) -> None:
        channel = self._channel
        if channel is None or not channel.is_open:
            return
        if self._distrusted:
            self._renew(channel)
            return
        while self._waiting and len(self._in_flight) < WINDOW:
            if self._in_flight and (self._waiting[0].alone or next(iter(self._in_flight.values())).alone):
                return
            entry = self._waiting.popleft()
            if entry.batch.abandoned:
                continue
            self._in_flight[self._next_tag] = entry
            self._next_tag += 1
            message = entry.outgoing
            channel.basic_publish(
                message.exchange, message.routing_key, message.body, message.properties, mandatory=True
            )

    # Any: pika's frames carry their method without a type.
    def _on_confirm(self, frame: Any) -> None:
        tag, refused = frame.method.delivery_tag, isinstance(frame.method, pika.spec.Basic.Nack)
        tags = [t for t in self._in_flight if t <= tag] if frame.method.multiple else [tag]
        for confirmed in tags:
            entry = self._in_flight.pop(confirmed, None)
            if entry is not None:
                where = entry.outgoing.routing_key
                entry.settle(SendRefused(f"RabbitMQ refused the message for {where!r}") if refused else None)
        self._distrusted = self._distrusted or refused
        if self._waiting or self._distrusted:
            self._pump()

    def _renew(self, channel: Channel) -> None:
        """Go on over another channel, once nobody waits for a confirm over this one.

        A channel of RabbitMQ 3.10 that meets a quorum queue between two leaders remembers the one that died, and
        refuses everything for that queue until the dead node is back. A new channel asks who leads it now.
        """
        if all(entry.batch.abandoned for entry in self._in_flight.values()):
            channel.close()

    def _on_returned(self, _channel: Channel, method: Any, properties: pika.BasicProperties, _body: bytes) -> None:
        # A return comes before the confirm of the same message, in order of publishing.
        for entry in self._in_flight.values():
            message = entry.outgoing
            same = (message.properties.message_id, message.routing_key) == (properties.message_id, method.routing_key)
            if same and message.error is None:
                message.error = Unroutable(f"no queue takes {message.routing_key!r} from exchange {message.exchange!r}")
                return

    def _on_channel_closed(self, _channel: Channel, reason: BaseException) -> None:
        self._channel = None
        code = getattr(reason, "reply_code", 0)
        if len(self._in_flight) == 1 and isinstance(reason, pika.exceptions.ChannelClosedByBroker):
            (entry,) = self._in_flight.values()
            self._in_flight.clear()
            text = str(getattr(reason, "reply_text", reason))
            entry.settle(Unroutable(text) if code == 404 else SendRefused(f"RabbitMQ answered {code}: {text}"))
        else:
            for entry in self._in_flight.values():
                entry.alone = True
            self._take_back()
        self._open_channel()

    def _on_connection_closed(self, _connection: Any, reason: BaseException) -> None:
        self._say_trouble(reason)
        self._stop_loop()

    def _take_back(self) -> None:
        """Publish again what was not confirmed; the order among senders is not promised, within one it is."""
        self._waiting.extendleft(reversed(self._in_flight.values()))
        self._in_flight.clear()

    def _hang_up(self) -> None:
        # Pika leaves the socket of an attempt to the garbage collector if its loop is stopped meanwhile.
        if self._connection is not None and self._connection.is_open:
            self._connection.close()

    def _stop_loop(self) -> None:
        if self._ioloop is not None:
            self._ioloop.stop()

    def _say_trouble(self, error: BaseException) -> None:
        text = self._settings.describe(error)
        if not self._trouble and not self._closing:
            log.warning("%s; sends wait for it", text)
        self._trouble = text


def _nothing() -> None: ...
