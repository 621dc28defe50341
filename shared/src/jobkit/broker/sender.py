"""How a message leaves: checked, traced, routed, published and confirmed. Producers and workers send alike."""

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

import pika
from dramatiq import Message

from jobkit import telemetry
from jobkit.broker import ladder, topology
from jobkit.broker.connection import CONNECTION_LOST, ConnectionSettings
from jobkit.broker.envelope import properties_of, trace_of
from jobkit.broker.outgoing import Outgoing
from jobkit.broker.publisher import ConfirmedPublisher
from jobkit.deadletters import Failure
from jobkit.errors import BrokerUnavailable, MessageTooLarge, SendRefused, Unroutable
from jobkit.execution import DEFERRED_OPTION, note_delay, without_history

#: Seconds before a refused message is sent again. A quorum queue refuses while it has no leader, which passes.
_REFUSAL_PAUSES: Final = (0.1, 0.4, 1.5)


class Sender:
    """Sends Dramatiq messages to their queues.

    A queue that is not there yet is made on the way, with the arguments that its service would give it.

    Args:
        connection: The broker.
        app_id: Names the sender in each message's properties.
        timeout: Seconds to wait for confirms; making a queue that is missing may add a connection's.
        max_bytes: The largest body.
    """

    def __init__(
        self, connection: ConnectionSettings, *, app_id: str, timeout: float = 10.0, max_bytes: int = 1_048_576
    ) -> None:
        self._connection = connection
        self._publisher = ConfirmedPublisher(connection)
        self._app_id = app_id
        self._timeout = timeout
        self.max_bytes = max_bytes
        self._delayed_to: set[str] = set()

    def send(self, messages: Sequence[Message[Any]], *, delay: timedelta = timedelta()) -> None:
        """Publish the messages, to arrive after ``delay``, and return once all are confirmed.

        Raises:
            SendError: at least one was not confirmed. All may be sent again: their ids tell them apart.
        """
        with telemetry.sending(messages):
            outgoing = [self._outgoing(message, delay) for message in messages]
            queues = {message.queue_name for message in messages}
            if delay:
                self._prepare_delays(queues)
            self._publish(outgoing, queues)

    def bury(self, message: Message[Any], failure: Failure) -> None:
        """Publish a message to its service's dead-letter exchange, with the record of its death."""
        as_sent = without_history(message)
        self._bury(as_sent.encode(), properties_of(as_sent, self._app_id, failure.headers()), failure)

    def bury_raw(self, body: bytes, properties: pika.BasicProperties, failure: Failure) -> None:
        """The same for a body that is no message."""
        kept = pika.BasicProperties(
            app_id=properties.app_id,
            content_type=properties.content_type,
            delivery_mode=pika.DeliveryMode.Persistent.value,
            headers={**trace_of(properties.headers), **failure.headers()},
            message_id=properties.message_id,
            timestamp=properties.timestamp,
            type=properties.type,
        )
        self._bury(body, kept, failure)

    def close(self) -> None:
        """Close the connection."""
        self._publisher.close()

    def _bury(self, body: bytes, properties: pika.BasicProperties, failure: Failure) -> None:
        outgoing = Outgoing(topology.dead_letter_exchange(failure.queue), failure.queue, body, properties)
        self._publish([outgoing], {failure.queue})

    def _publish(self, outgoing: list[Outgoing], queues: set[str]) -> None:
        """Publish within the time-out, making missing queues and sending again what was refused for a moment."""
        deadline = time.monotonic() + self._timeout
        pauses = iter(_REFUSAL_PAUSES)
        while True:
            try:
                self._publisher.publish(outgoing, deadline - time.monotonic())
            except (Unroutable, SendRefused) as refusal:
                pause = next(pauses, None)
                if pause is None or time.monotonic() + pause > deadline:
                    raise
                if isinstance(refusal, Unroutable):
                    self._declare(queues)
                else:
                    time.sleep(pause)
                outgoing = [message for message in outgoing if not message.confirmed]
                for message in outgoing:
                    message.error = None
            else:
                return

    def _outgoing(self, message: Message[Any], delay: timedelta) -> Outgoing:
        note_delay(message, delay)
        body = message.encode()
        if len(body) > self.max_bytes and DEFERRED_OPTION not in message.options:  # a copy has been let in before
            raise MessageTooLarge(
                f"{message.actor_name} {message.message_id} is {len(body):,} bytes long, the limit is "
                f"{self.max_bytes:,}: put the data into object storage and send its key"
            )
        exchange, key = ladder.route(message.queue_name, delay)
        return Outgoing(exchange, key, body, properties_of(message, self._app_id))

    def _prepare_delays(self, queues: set[str]) -> None:
        missing = queues - self._delayed_to
        if missing:
            self._declare(missing)
            self._delayed_to |= missing

    def _declare(self, queues: set[str]) -> None:
        try:
            with self._connection.open() as connection:
                channel = connection.channel()
                ladder.declare_ladder(channel)
                for queue in queues:
                    topology.declare_queue(channel, queue)
                    ladder.bind(channel, queue)
        except CONNECTION_LOST as error:
            text = self._connection.describe(error)
            raise BrokerUnavailable(f"cannot make {', '.join(sorted(queues))}: {text}") from error
