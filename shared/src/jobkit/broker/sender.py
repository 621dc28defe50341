"""How a message leaves: checked, traced, routed, published and confirmed. Producers and workers send alike."""

import math
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from datetime import timedelta
from typing import Any

import pika
from dramatiq import Message

from jobkit import telemetry
from jobkit.broker import ladder, topology
from jobkit.broker.connection import CONNECTION_LOST, ConnectionSettings
from jobkit.broker.declarer import Declarer
from jobkit.broker.envelope import encoded, properties_of, trace_of
from jobkit.broker.outgoing import Outgoing
from jobkit.broker.publisher import ConfirmedPublisher
from jobkit.broker.shipment import Parcel, Shipment
from jobkit.contracts.job import service_of
from jobkit.contracts.payload import PayloadChanged
from jobkit.deadletters import Failure
from jobkit.errors import (
    BrokerUnavailable,
    DeclarationRefused,
    MessageTooLarge,
    SendError,
    TopologyMismatch,
    Unroutable,
)
from jobkit.execution import DEFERRED_OPTION, note_delay, without_history
from jobkit.refusals import Refusals


class Sender:
    """Sends Dramatiq messages to their queues.

    A queue that is missing is made on the way, with the arguments that its service would give it.

    Args:
        connection: The broker.
        app_id: Names the sender in each message's properties.
        timeout: Seconds to wait for a confirm, from the last one that came. Connecting, and making a queue that is
            missing, have time of their own.
        max_bytes: The largest body.
        declarer: Makes the queues; the one of this process, if there is one.
        refusals: Told when the broker refuses the login.
    """

    def __init__(
        self,
        connection: ConnectionSettings,
        *,
        app_id: str,
        timeout: float = 10.0,
        max_bytes: int = 1_048_576,
        declarer: Declarer | None = None,
        refusals: Refusals | None = None,
    ) -> None:
        self._connection = connection
        self._publisher = ConfirmedPublisher(connection, refusals)
        self._app_id = app_id
        self._timeout = timeout
        self.max_bytes = max_bytes
        self._declarer = declarer or Declarer()

    def send(self, messages: Sequence[Message[Any]], *, delay: timedelta = timedelta()) -> None:
        """Publish the messages, to arrive after ``delay``, and return once all are confirmed.

        Raises:
            SendError: At least one was not confirmed. All may be sent again: their ids tell them apart.
            ValueError: The delay is longer than the broker can hold a message.
        """
        delay = ladder.held_for(delay)
        with telemetry.sending(messages):
            parcels = [Parcel(self._outgoing(message, delay)) for message in messages]
            self._deliver_all(parcels)

    def stream(
        self, messages: Iterable[Message[Any]], *, delay: timedelta = timedelta()
    ) -> Iterator[tuple[Message[Any], SendError | PayloadChanged | None]]:
        """Publish messages as they come, and yield each with None, or with the error that kept it from being confirmed.

        They are yielded in order. At most 1,000 are on their way at a time, so that nothing grows with their number.
        It ends early, without reading further messages, when the broker no longer answers.
        """
        delay = ladder.held_for(delay)
        on_the_way: deque[Message[Any]] = deque()

        def parcels() -> Iterator[Parcel]:
            for message in messages:
                batch.carry(message)
                on_the_way.append(message)
                try:
                    parcel = Parcel(self._outgoing(message, delay))
                except (SendError, PayloadChanged) as error:
                    parcel = Parcel(None, error)
                yield parcel

        with telemetry.sending_many() as batch, closing(self._deliver(parcels())) as delivered:
            for parcel in delivered:
                message = on_the_way.popleft()
                batch.settled(message.queue_name, parcel.error)
                yield message, parcel.error

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
        self._deliver_all([Parcel(outgoing)])

    def _deliver_all(self, parcels: Sequence[Parcel]) -> None:
        """Publish all; raise the first error."""
        shipment = self._shipment(gather=False)
        try:
            for parcel in parcels:
                shipment.put(parcel)
            errors = [parcel.error for parcel in parcels if shipment.take().error is not None]
        finally:
            shipment.abandon()
        if errors and errors[0] is not None:
            raise errors[0]

    def _deliver(self, parcels: Iterable[Parcel]) -> Generator[Parcel, None, None]:
        """Publish what comes, a window at a time, and yield it in order when it is known what became of it."""
        shipment = self._shipment(gather=True)
        try:
            for parcel in parcels:
                shipment.put(parcel)
                while shipment.due:
                    yield shipment.take()
                if shipment.gone:
                    break
            while shipment:
                yield shipment.take()
        finally:
            shipment.abandon()

    def _shipment(self, *, gather: bool) -> Shipment:
        return Shipment(self._publisher, self._timeout, self._make_queue, gather=gather)

    def _outgoing(self, message: Message[Any], delay: timedelta) -> Outgoing:
        note_delay(message, delay)
        body = encoded(message)
        if len(body) > self.max_bytes and DEFERRED_OPTION not in message.options:  # a copy has been let in before
            raise MessageTooLarge.of(message.actor_name, message.message_id, len(body), self.max_bytes)
        exchange, key = self._route(message.queue_name, delay)
        return Outgoing(exchange, key, body, properties_of(message, self._app_id))

    def _route(self, queue: str, delay: timedelta) -> tuple[str, str]:
        if not delay:
            return topology.jobs_exchange(queue), queue
        if not self._declarer.knows(queue):  # what leaves the ladder is not returned to its sender
            self._declare(queue, since=0.0)
        elif self._publisher.connected:  # in an outage, the message waits for the connection and for nothing else
            with suppress(SendError):
                self._declare(queue, since=self._publisher.lost_at)
        return ladder.route(queue, delay, due=self._declarer.has_due_queue(queue))

    def _make_queue(self, queue: str) -> None:
        self._declare(queue, since=math.inf)
        self._publisher.detours.close(queue)

    def _declare(self, queue: str, *, since: float) -> None:
        try:
            self._declarer.ensure([queue], self._connection.open, since=since)
        except DeclarationRefused as error:
            raise Unroutable(
                f"there is no queue {queue} with its delays, and this user may not make it ({error}): start the worker "
                f"of {service_of(queue)!r} once, or import the definitions"
            ) from error
        except TopologyMismatch as error:
            raise Unroutable(f"the queue {queue} cannot be used: {error}") from error
        except CONNECTION_LOST as error:
            raise BrokerUnavailable(f"cannot make {queue}: {self._connection.describe(error)}") from error
