"""Dramatiq's in-memory broker under the same rules, for tests and for machines without RabbitMQ.

Nothing here outlives the process. What the rules are about still holds: a delivery that was not settled comes back, a
dead letter has its record, a delay delays.
"""

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from dramatiq import Message
from dramatiq.broker import Consumer, MessageProxy
from dramatiq.brokers.stub import StubBroker

from jobkit import telemetry
from jobkit.broker.envelope import encoded
from jobkit.broker.ladder import held_for
from jobkit.broker.topology import dead_letter_queue
from jobkit.contracts.payload import PayloadChanged
from jobkit.deadletters import Failure
from jobkit.errors import MessageTooLarge, SendError, Unroutable
from jobkit.execution import Decision, note_delay, settled, without_history
from jobkit.time import milliseconds


@dataclass(frozen=True)
class DeadLetter:
    """A message that died, and why."""

    message: Message[Any]
    failure: Failure


class MemoryExchange:
    """Joins the brokers of several services in one process: a message goes to whoever has its queue."""

    def __init__(self, max_bytes: int = 1_048_576) -> None:
        self._brokers: dict[str, MemoryBroker] = {}
        self._dead: dict[str, list[DeadLetter]] = {}
        self._max_bytes = max_bytes

    def send(self, messages: Sequence[Message[Any]], *, delay: timedelta = timedelta()) -> None:
        """Put the messages into their queues, to arrive after ``delay``; raises ``SendError``."""
        delay = held_for(delay)
        with telemetry.sending(messages):
            for message in messages:
                self._put(message, delay)

    def stream(
        self, messages: Iterable[Message[Any]], *, delay: timedelta = timedelta()
    ) -> Iterator[tuple[Message[Any], SendError | PayloadChanged | None]]:
        """Put messages into their queues as they come, and yield each with None, or with the error that it met."""
        delay = held_for(delay)
        with telemetry.sending_many() as batch:
            for message in messages:
                batch.carry(message)
                error: SendError | PayloadChanged | None = None
                try:
                    self._put(message, delay)
                except (SendError, PayloadChanged) as refusal:
                    error = refusal
                batch.settled(message.queue_name, error)
                yield message, error

    def dead_letters(self, service: str) -> list[DeadLetter]:
        """The dead letters of a service, oldest first."""
        return list(self._dead.get(dead_letter_queue(service), []))

    def broker_of(self, queue: str) -> "MemoryBroker":
        """The broker that has the queue; raises ``Unroutable`` if none does."""
        try:
            return self._brokers[queue]
        except KeyError:
            raise Unroutable(f"no service in this process takes {queue!r}") from None

    def attach(self, queue: str, broker: "MemoryBroker") -> None:
        """Send the messages of ``queue`` to ``broker``."""
        self._brokers[queue] = broker

    def keep(self, letter: DeadLetter) -> None:
        """Add a dead letter."""
        self._dead.setdefault(dead_letter_queue(letter.failure.queue), []).append(letter)

    def close(self) -> None:
        """Nothing is open."""

    def _put(self, message: Message[Any], delay: timedelta) -> None:
        note_delay(message, delay)
        if (size := len(encoded(message))) > self._max_bytes:
            raise MessageTooLarge.of(message.actor_name, message.message_id, size, self._max_bytes)
        self.broker_of(message.queue_name).put(message, delay)


class MemoryBroker(StubBroker):
    """One service's queues in memory.

    Attributes:
        stopping: Set when its worker shuts down.
    """

    def __init__(self, exchange: MemoryExchange) -> None:
        super().__init__(middleware=[])
        self.stopping = threading.Event()
        self._exchange = exchange

    def declare_queue(self, queue_name: str) -> None:
        """Make the queue and let the exchange know."""
        super().declare_queue(queue_name)
        self._exchange.attach(queue_name, self)

    def enqueue(self, message: Message[Any], *, delay: int | None = None) -> Message[Any]:
        """Put the message into its queue, whichever service it belongs to, after ``delay`` milliseconds if given."""
        if message.queue_name in self.queues:
            return super().enqueue(message, delay=delay)
        self._exchange.send([message], delay=timedelta(milliseconds=delay or 0))
        return message

    def put(self, message: Message[Any], delay: timedelta) -> None:
        """Put the message into one of this broker's own queues."""
        super().enqueue(message, delay=milliseconds(delay) if delay else None)

    def bury(self, message: Message[Any], failure: Failure) -> None:
        """Keep the dead letter with its record."""
        self._exchange.keep(DeadLetter(without_history(message), failure))

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 100) -> Consumer:
        """An iterator over the queue that puts back what was not settled."""
        return _Settling(self, super().consume(queue_name, prefetch, timeout))


class _Settling(Consumer):
    def __init__(self, broker: MemoryBroker, consumer: Consumer) -> None:
        self._broker = broker
        self._consumer = consumer

    def __next__(self) -> MessageProxy | None:
        message: MessageProxy | None = next(self._consumer)
        if message is not None:
            message.__dict__["settle"] = self.settle
        if message is not None and self._broker.stopping.is_set():
            self.requeue([message])
            self._consumer.ack(message)
            return None
        return message

    def ack(self, message: MessageProxy) -> None:
        decision = settled(message)
        if decision is not None:  # else it is settled once that is recorded
            self.settle(message, decision)

    def settle(self, message: MessageProxy, decision: Decision) -> None:
        """Settle a delivery, in any thread."""
        if not decision.is_final:
            self.requeue([message])
        self._consumer.ack(message)

    def nack(self, message: MessageProxy) -> None:
        self._consumer.nack(message)

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        for message in messages:
            self._broker.put(message._message, timedelta())

    def close(self) -> None:
        self._consumer.close()
