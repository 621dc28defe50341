"""What was published over a connection, and which confirms have come."""

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import pika
import pika.exceptions
from pika.channel import Channel

from jobkit.broker.connection import NOWHERE, SHORT_LIVED, ConnectionSettings
from jobkit.broker.detours import Detours
from jobkit.broker.outgoing import Outgoing
from jobkit.broker.publishing_connection import PublishingConnection
from jobkit.broker.topology import jobs_exchange
from jobkit.deadletters import DELAY_QUEUES
from jobkit.errors import AccessRefused, SendError, SendRefused, Unroutable

#: Messages written ahead of their confirms. More gain no speed and cost memory.
WINDOW: Final = 1000

#: RabbitMQ's codes for an exchange that this user may not write to, and for one that does not exist.
_NO_EXCHANGE: Final = frozenset({403, 404})


class ConfirmedChannel:
    """Publishes what waits, matches the confirms, and goes on over another channel where the broker has closed one.

    Whoever drives the connection calls it. An interrupt between any two of its steps loses no message: what was not
    confirmed is in flight or waits, or both, and a second copy has the same id.

    Args:
        connection: The broker.
        waiting: What is to be published, in this order. Others append to it.
        detours: Which services' exchanges do not take jobs now.
        opened: Called when it takes messages.
    """

    def __init__(
        self, connection: ConnectionSettings, waiting: deque[Outgoing], detours: Detours, opened: Callable[[], None]
    ) -> None:
        self._settings = connection
        self._waiting = waiting
        self._detours = detours
        self._opened = opened
        self._connection: PublishingConnection | None = None
        self._channel: Channel | None = None
        self._in_flight: dict[int, Outgoing] = {}  # by delivery tag, in order of publishing
        self._next_tag = 1
        self._distrusted = False
        self._asked_for = ""  # the exchange of which it is asked whether it exists

    @property
    def is_open(self) -> bool:
        """Whether it takes messages; if not, somebody has to drive the connection until it does."""
        return self._channel is not None

    def open(self, connection: PublishingConnection) -> None:
        """Begin to open a channel on the connection."""
        self._connection = connection
        connection.gather(self.on_confirm)
        self._open_channel()

    def publish(self) -> None:
        """Publish what waits, as much as may be in flight."""
        channel, connection = self._channel, self._connection
        if channel is None or connection is None or not channel.is_open:
            return
        if self._distrusted:
            self._renew(channel)
            return
        number: int = channel.channel_number
        while len(self._in_flight) < WINDOW and (message := self._next()) is not None:
            message.detour = message.detour or self._detours.reason(message.exchange, message.routing_key)
            exchange = "" if message.detour else message.exchange
            try:
                connection.publish(number, exchange, message.routing_key, message.body, message.properties)
            except Exception as error:  # it cannot be written as AMQP, and would end each session that tries
                del self._in_flight[self._next_tag]
                message.settle(SendRefused(f"the message for {message.queue!r} cannot be written: {error}"))
            else:
                self._next_tag += 1

    def on_confirm(self, tag: int, multiple: bool, taken: bool) -> None:
        """Settle the message with the tag, or all up to it; the broker has taken them, or not."""
        tags = [t for t in self._in_flight if t <= tag] if multiple else [tag]
        again: list[int] = []
        for confirmed in tags:
            message = self._in_flight.get(confirmed)
            if message is None:
                continue
            if isinstance(message.error, Unroutable) and message.detour is None and _has_own_exchange(message):
                # The exchange exists, and the queue may, too: an earlier version made it without a binding.
                message.detour, message.error = message.error, None
                self._detours.open(message.detour, message.exchange, message.routing_key)
                again.append(confirmed)
                continue
            message.settle(None if taken else _refusal(message))
            if message.detour is not None and message.confirmed:
                self._detours.tell(message.exchange)
            del self._in_flight[confirmed]
        if again:
            self._waiting.extendleft(self._in_flight[confirmed] for confirmed in reversed(again))
            for confirmed in again:
                del self._in_flight[confirmed]
        self._distrusted = self._distrusted or not taken

    def doubt(self) -> None:
        """Somebody has waited for a confirm in vain, and marked the batch as abandoned."""
        # A queue that has lost its majority never confirms. What it holds back must not fill the window for good.
        self._distrusted = self._distrusted or any(message.abandoned for message in self._in_flight.values())

    def take_back(self) -> None:
        """Publish again what was not confirmed; the order among senders is not promised, within one it is."""
        self._waiting.extendleft(reversed(self._in_flight.values()))
        self._in_flight.clear()

    def _open_channel(self) -> None:
        if self._connection is not None and self._connection.is_open:
            self._connection.channel(on_open_callback=self._on_channel_open)

    def _on_channel_open(self, channel: Channel) -> None:
        self._next_tag = 1
        self._distrusted = False
        channel.add_on_close_callback(self._on_channel_closed)
        channel.add_on_return_callback(self._on_returned)
        channel.confirm_delivery(_ignored, callback=lambda _frame: self._on_open(channel))

    def _on_open(self, channel: Channel) -> None:
        self._channel = channel
        self._opened()

    def _next(self) -> Outgoing | None:
        """Take what may be published now; None if nothing, or if the one that comes next has to wait for its turn."""
        with suppress(IndexError):  # the last one's sender may have given it up just now
            while True:
                message = self._waiting[0]
                if not (message.abandoned or message.settled):
                    if self._in_flight and (message.alone or next(iter(self._in_flight.values())).alone):
                        return None
                    if self._has_to_ask(message):
                        return None
                    self._in_flight[self._next_tag] = message  # before it is taken: an interrupt must not lose it
                taken = self._waiting.popleft()
                if taken is not message:  # its sender has given it up just now
                    self._waiting.appendleft(taken)
                if self._in_flight.get(self._next_tag) is message:
                    return message
        return None

    def _has_to_ask(self, message: Outgoing) -> bool:
        """Return whether the message waits until it is known whether its service's exchange takes jobs.

        RabbitMQ closes a channel over which something is published to an exchange that is missing or forbidden. All
        that is in flight beside it would be published again, and arrive twice. So a channel of its own tries, once in
        a process.
        """
        exchange = message.exchange
        if self._detours.is_there(exchange) or message.detour is not None or not _has_own_exchange(message):
            return False
        if self._detours.reason(exchange, message.routing_key) is not None:
            return False
        if not self._asked_for and self._connection is not None:
            try:
                self._connection.channel(on_open_callback=lambda channel: self._ask(channel, exchange))
            except pika.exceptions.AMQPError:  # there may be no further one on this connection
                self._detours.found(exchange)
                return False
            self._asked_for = exchange
        return True

    def _ask(self, channel: Channel, exchange: str) -> None:
        """Publish a message that reaches no queue, and see whether the channel is closed for it."""

        def on_closed(_channel: Channel, reason: BaseException) -> None:
            if isinstance(reason, pika.exceptions.ChannelClosedByBroker) and reason.reply_code in _NO_EXCHANGE:
                self._detours.open(self._verdict(reason.reply_code, reason), exchange)
            elif isinstance(reason, pika.exceptions.ChannelClosed):
                self._detours.found(exchange)
            else:
                return  # the connection is lost
            self._asked_for = ""
            self.publish()

        channel.add_on_close_callback(on_closed)
        channel.basic_publish(exchange, NOWHERE, b"", SHORT_LIVED)
        channel.close()

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
            self.take_back()
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
            self.take_back()
        self._open_channel()

    def _has_opened_detour(self, reason: BaseException) -> bool:
        """Return whether the channel was closed because of a service's exchange, which is left out from now on.

        404: it does not exist yet. 403: this user's permissions do not name it yet.
        """
        code, text = getattr(reason, "reply_code", 0), str(getattr(reason, "reply_text", ""))
        if code not in _NO_EXCHANGE or not isinstance(reason, pika.exceptions.ChannelClosedByBroker):
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


def _ignored(_frame: object) -> None: ...  # the connection hands confirms on by a shorter way


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
