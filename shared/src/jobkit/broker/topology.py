"""The queues and exchanges of a service: a pure function of the queue's name, so that all who declare them agree.

``email`` and its lane ``email.high`` are bound to the exchange ``email.jobs`` under their names. They dead-letter to
the exchange ``email.dlx`` and so to the queue ``email.dlq``.
Source: RabbitMQ's documentation of quorum queues (poison messages, at-least-once dead lettering).
"""

from typing import Any, Final, Protocol

import pika.exceptions

from jobkit.contracts.job import service_of
from jobkit.errors import TopologyMismatch

#: Deliveries before RabbitMQ itself dead-letters a message. It is the backstop for what the job record cannot count,
#: and far above ``max_crashes``, because every hand-back and every lost connection counts too.
DELIVERY_LIMIT: Final = 100

#: Looking at a dead letter counts as a delivery. RabbitMQ 4 would drop it after 20 looks, so the limit is out of reach.
_DEAD_LETTER_DELIVERY_LIMIT: Final = 1_000_000_000

#: The arguments of every queue that jobkit makes.
DURABLE_QUORUM: Final = {"x-queue-type": "quorum", "x-overflow": "reject-publish"}


class Declares(Protocol):
    """What queues and exchanges are declared on: a channel, or one that knows what its user may not do."""

    # Any: AMQP's fields.
    def exchange_declare(
        self,
        exchange: str,
        kind: str,
        /,
        *,
        durable: bool,
        internal: bool = ...,
        arguments: dict[str, Any] | None = ...,
    ) -> object:
        """Make an exchange, unless it exists; clients cannot publish to an ``internal`` one."""

    # Any: the same.
    def queue_declare(self, queue: str, /, *, durable: bool, arguments: dict[str, Any]) -> object:
        """Make a queue, unless it exists."""

    def queue_bind(self, queue: str, exchange: str, routing_key: str = ..., /) -> object:
        """Bind a queue to an exchange."""

    def exchange_bind(self, destination: str, source: str, routing_key: str, /) -> object:
        """Bind an exchange to another."""


def dead_letter_exchange(queue: str) -> str:
    """Where a queue's dead letters are published."""
    return f"{service_of(queue)}.dlx"


def dead_letter_queue(queue: str) -> str:
    """Where a queue's dead letters are kept, until somebody decides about them."""
    return f"{service_of(queue)}.dlq"


def jobs_exchange(queue: str) -> str:
    """Where jobs for a queue are published: a user may be allowed to write there, and so to one service only."""
    return f"{service_of(queue)}.jobs"


def declare_dead_letters(channel: Declares, queue: str) -> None:
    """Make the dead-letter exchange and queue of a queue's service, if they are not there."""
    exchange, dead = dead_letter_exchange(queue), dead_letter_queue(queue)
    channel.exchange_declare(exchange, "fanout", durable=True)
    channel.queue_declare(
        dead, durable=True, arguments={**DURABLE_QUORUM, "x-delivery-limit": _DEAD_LETTER_DELIVERY_LIMIT}
    )
    channel.queue_bind(dead, exchange)


def declare_queue(channel: Declares, queue: str) -> None:
    """Make the queue with its dead-letter exchange and queue, if they are not there.

    Raises:
        TopologyMismatch: one of them exists with other arguments.
    """
    try:
        declare_dead_letters(channel, queue)
        channel.queue_declare(
            queue,
            durable=True,
            arguments={
                **DURABLE_QUORUM,
                "x-delivery-limit": DELIVERY_LIMIT,
                "x-dead-letter-exchange": dead_letter_exchange(queue),
                "x-dead-letter-strategy": "at-least-once",
            },
        )
    except pika.exceptions.ChannelClosedByBroker as error:
        raise explain_mismatch(error) from error


def declare_jobs_exchange(channel: Declares, queue: str) -> None:
    """Make the exchange for the jobs of a queue's service, and bind the queue, which exists, under its name.

    Raises:
        TopologyMismatch: It exists as another kind of exchange.
    """
    exchange = jobs_exchange(queue)
    try:
        channel.exchange_declare(exchange, "direct", durable=True)
        channel.queue_bind(queue, exchange, queue)
    except pika.exceptions.ChannelClosedByBroker as error:
        raise explain_mismatch(error) from error


def explain_mismatch(error: pika.exceptions.ChannelClosedByBroker) -> Exception:
    """The error to raise when a declaration was refused: RabbitMQ's own words, and what to do."""
    if error.reply_code != 406:  # PRECONDITION_FAILED
        return error
    return TopologyMismatch(
        f"{error.reply_text}. It was made with other arguments than jobkit's: drain and delete it, "
        "or point JOBKIT_BROKER_URL at another vhost, then start again"
    )
