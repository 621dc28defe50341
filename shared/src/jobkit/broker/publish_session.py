"""One connection's life: what was published over it, and which confirms have come."""

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import pika
import pika.exceptions
from pika.adapters.select_connection import IOLoop
from pika.channel import Channel

from jobkit.broker.connection import Blocked, ConnectionSettings
from jobkit.broker.detours import Detours
from jobkit.broker.lenient import LenientConnection
from jobkit.broker.outgoing import Outgoing
from jobkit.broker.topology import jobs_exchange
from jobkit.deadletters import DELAY_QUEUES
from jobkit.errors import AccessRefused, SendError, SendRefused, Unroutable

#: Messages written ahead of their confirms. More gain no speed and cost memory.
WINDOW: Final = 1000

#: Seconds in which the messages of a stream gather.
_GATHER: Final = 0.005

#: What ``basic_publish`` raises because of the connection, and not because of the message.
_LOST: Final = (pika.exceptions.AMQPConnectionError, pika.exceptions.AMQPChannelError, AssertionError, OSError)


class PublishSession:
    """A channel on a connection of its own that publishes what waits, and matches the confirms.

    One thread runs it. Others may append to what waits, and call ``wake``, ``give_up_waiting`` and ``hang_up``.

    Args:
        connection: The broker.
        waiting: What is to be published, in this order. What has no confirm at the end of the session is put back.
        report: Told why the connection could not be had or was lost, and None when messages are taken.
        detours: Which services' exchanges do not take jobs now.
    """

    def __init__(
        self,
        connection: ConnectionSettings,
        waiting: deque[Outgoing],
        report: Callable[[BaseException | None], None],
        detours: Detours | None = None,
    ) -> None:
        self._settings = connection
        self._detours = detours or Detours()
        self._waiting = waiting
        self._report = report
        self._ioloop = IOLoop()
        self._connection: LenientConnection | None = None
        self._channel: Channel | None = None
        self._in_flight: dict[int, Outgoing] = {}  # by delivery tag, in order of publishing
        self._next_tag = 1
        self._distrusted = False
        self._ending = False
        self._ended = False
        self._was_taking = False
        self._woken = self._woken_soon = False

    @property
    def connected(self) -> bool:
        """Whether it has reached the broker."""
        return self._connection is not None

    @property
    def connecting(self) -> bool:
        """Whether its first connection attempt is still under way."""
        return not self._was_taking and not self._ended

    @property
    def taking(self) -> bool:
        """Whether the broker takes messages over it."""
        return self._was_taking and not self._ended

    def run(self) -> None:
        """Connect and publish until the connection is lost or hung up, or could not be had."""
        try:
            LenientConnection.create_connection(self._settings.known_nodes(), self._on_connect_done, self._ioloop)
            self._ioloop.start()
        finally:
            self._ended = True
            self._take_back()

    def wake(self, *, soon: bool = False) -> None:
        """Publish what has come to wait, now or with what comes within some milliseconds."""
        if soon and not self._woken_soon:
            # Woken for each message, the two threads would spend their time on handing the interpreter to each other.
            self._woken_soon = True
            self._ioloop.add_callback_threadsafe(self._pump_soon)
        elif not soon and not self._woken:
            self._woken = True
            self._ioloop.add_callback_threadsafe(self._pump)

    def give_up_waiting(self) -> None:
        """Somebody has waited for a confirm in vain, and marked the batch as abandoned."""
        self._ioloop.add_callback_threadsafe(self._doubt)

    def hang_up(self) -> None:
        """Close the connection, which ends ``run``; one that is still being made, when it is there."""
        self._ioloop.add_callback_threadsafe(self._end)

    def dispose(self) -> None:
        """Free what waking it up takes, after ``run``; nobody may call it any more."""
        self._ioloop.close()

    # Any: pika hands over a connection or one of several exception types that share no base.
    def _on_connect_done(self, outcome: Any) -> None:
        if isinstance(outcome, BaseException):
            self._report(outcome)
            self._ended = True
            self._ioloop.stop()
            return
        self._connection = outcome
        self._settings.note_answer(outcome.params)
        outcome.add_on_close_callback(self._on_connection_closed)
        # RabbitMQ says so at the first publish while it is short of memory or disk, and reads nothing more until then.
        outcome.add_on_connection_blocked_callback(self._on_blocked)
        outcome.add_on_connection_unblocked_callback(lambda _connection, _frame: self._report(None))
        if self._ending:
            self._end()
        else:
            self._open_channel()

    def _end(self) -> None:
        self._ending = True
        # Pika leaves the socket of an attempt to the garbage collector if its loop is stopped meanwhile.
        if self._connection is not None and self._connection.is_open:
            self._connection.close()

    def _on_connection_closed(self, _connection: Any, reason: BaseException) -> None:
        self._report(reason)
        self._ioloop.stop()

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
        self._report(None)
        self._channel = channel
        self._was_taking = True
        self._pump()

    # Any: pika's frames carry their method without a type.
    def _on_blocked(self, _connection: Any, frame: Any) -> None:
        self._report(Blocked(str(frame.method.reason)))

    def _pump_soon(self) -> None:
        self._ioloop.call_later(_GATHER, self._pump)

    def _pump(self) -> None:
        self._woken = self._woken_soon = False  # before it looks: what is appended from now on wakes it again
        channel = self._channel
        if channel is None or not channel.is_open:
            return
        if self._distrusted:
            self._renew(channel)
            return
        while len(self._in_flight) < WINDOW and (message := self._next()) is not None:
            self._in_flight[self._next_tag] = message
            message.detour = message.detour or self._detours.reason(message.exchange, message.routing_key)
            exchange = "" if message.detour else message.exchange
            try:
                channel.basic_publish(exchange, message.routing_key, message.body, message.properties, mandatory=True)
            except _LOST:
                raise
            except Exception as error:  # it cannot be written as AMQP, and would end each session that tries
                del self._in_flight[self._next_tag]
                message.settle(SendRefused(f"the message for {message.queue!r} cannot be written: {error}"))
            else:
                self._next_tag += 1

    def _next(self) -> Outgoing | None:
        """What may be published now; None if nothing, or if the one that comes next has to wait for its turn."""
        with suppress(IndexError):  # the last one's sender may have given it up just now
            while True:
                message = self._waiting.popleft()
                if message.abandoned:
                    continue
                if self._in_flight and (message.alone or next(iter(self._in_flight.values())).alone):
                    self._waiting.appendleft(message)
                    return None
                return message
        return None

    # Any: pika's frames carry their method without a type.
    def _on_confirm(self, frame: Any) -> None:
        tag, refused = frame.method.delivery_tag, isinstance(frame.method, pika.spec.Basic.Nack)
        tags = [t for t in self._in_flight if t <= tag] if frame.method.multiple else [tag]
        again: list[Outgoing] = []
        for confirmed in tags:
            message = self._in_flight.pop(confirmed, None)
            if message is None:
                continue
            if isinstance(message.error, Unroutable) and message.detour is None and _has_own_exchange(message):
                # The exchange exists, and the queue may, too: an earlier version made it without a binding.
                message.detour, message.error = message.error, None
                self._detours.open(message.detour, message.exchange, message.routing_key)
                again.append(message)
                continue
            message.settle(_refusal(message) if refused else None)
            if message.detour is not None and message.confirmed:
                self._detours.tell(message.exchange)
        self._waiting.extendleft(reversed(again))
        self._distrusted = self._distrusted or refused
        if self._waiting or self._distrusted:
            self._pump()

    def _doubt(self) -> None:
        # A queue that has lost its majority never confirms. What it holds back must not fill the window for good.
        self._distrusted = self._distrusted or any(message.abandoned for message in self._in_flight.values())
        self._pump()

    def _renew(self, channel: Channel) -> None:
        """Go on over another channel, once nobody waits for a confirm over this one.

        A channel of RabbitMQ 3.10 that meets a quorum queue between two leaders remembers the one that died, and
        refuses everything for that queue until the dead node is back. A new channel asks who leads it now.
        """
        if all(message.abandoned for message in self._in_flight.values()):
            channel.close()

    def _on_returned(self, _channel: Channel, method: Any, properties: pika.BasicProperties, _body: bytes) -> None:
        # A return comes before the confirm of the same message, in order of publishing.
        for message in self._in_flight.values():
            same = (message.properties.message_id, message.routing_key) == (properties.message_id, method.routing_key)
            if same and message.error is None:
                message.error = Unroutable(f"no queue takes {message.routing_key!r} from exchange {message.exchange!r}")
                return

    def _on_channel_closed(self, _channel: Channel, reason: BaseException) -> None:
        self._channel = None
        code = getattr(reason, "reply_code", 0)
        if self._has_opened_detour(reason):
            self._take_back()
        elif len(self._in_flight) == 1 and isinstance(reason, pika.exceptions.ChannelClosedByBroker):
            (message,) = self._in_flight.values()
            self._in_flight.clear()
            error = self._verdict(code, reason)
            if message.detour is not None:
                self._detours.close(message.routing_key)
            message.settle(message.detour or error)
        else:
            for message in self._in_flight.values():
                message.alone = True
            self._take_back()
        self._open_channel()

    def _has_opened_detour(self, reason: BaseException) -> bool:
        """Return whether the channel was closed because of a service's exchange, which is left out from now on.

        404: it does not exist yet. 403: this user's permissions do not name it yet.
        """
        code, text = getattr(reason, "reply_code", 0), str(getattr(reason, "reply_text", ""))
        if code not in {403, 404} or not isinstance(reason, pika.exceptions.ChannelClosedByBroker):
            return False
        guilty = [
            message
            for message in self._in_flight.values()
            if message.detour is None and _has_own_exchange(message) and f"exchange '{message.exchange}' in" in text
        ]
        for message in guilty:
            message.detour = self._verdict(code, reason)
            self._detours.open(message.detour, message.exchange)
        return bool(guilty)

    def _verdict(self, code: int, reason: pika.exceptions.ChannelClosedByBroker) -> SendError:
        """Return the error for a message that the broker closed its channel for."""
        if code == 404:
            return Unroutable(str(reason.reply_text))
        return (AccessRefused if code == 403 else SendRefused)(self._settings.describe(reason))

    def _take_back(self) -> None:
        """Publish again what was not confirmed; the order among senders is not promised, within one it is."""
        self._waiting.extendleft(reversed(self._in_flight.values()))
        self._in_flight.clear()


def _has_own_exchange(message: Outgoing) -> bool:
    """Return whether a message goes to the exchange of its service, and not to one for delays or dead letters."""
    return message.exchange == jobs_exchange(message.routing_key)


def _refusal(message: Outgoing) -> SendRefused:
    # A negative confirm carries no reason (https://www.rabbitmq.com/docs/confirms#server-sent-nacks).
    delayed = " after its delay" if message.exchange.startswith(DELAY_QUEUES) else ""
    return SendRefused(
        f"RabbitMQ refused the message for {message.queue!r}{delayed} without a reason. The likely ones: the queue is "
        "full (a max-length in its arguments or a policy), or most of its nodes are down. Look at the queue, then send "
        "it again"
    )
