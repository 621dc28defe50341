"""Where a delayed message goes when it is due: a queue of its own for each target, and one for what has no target.

RabbitMQ dead-letters at least once: a queue keeps what its dead-letter target does not take, and tries again. All
services share the levels of the ladder, so one full or deleted target would hold up the messages of the others there.
Each target therefore has ``due.<queue>`` in front of it. It takes everything, holds nothing back by time, and waits for
its own target only.

A message whose ``due.<queue>`` was deleted goes to ``jobkit.dlq``: the exchange that the due queues are bound to has an
alternate exchange. ``jobkit.delivery`` could not get one, because its arguments cannot be changed while it exists.
"""

from typing import Final

import pika.exceptions

from jobkit.broker.ladder import DELIVERY_EXCHANGE, LEVELS
from jobkit.broker.topology import (
    DURABLE_QUORUM,
    Declares,
    dead_letter_exchange,
    dead_letter_queue,
    declare_dead_letters,
    explain_mismatch,
)
from jobkit.contracts.job import PLATFORM
from jobkit.deadletters import DUE_QUEUES

#: What the due queues are bound to. Internal: no client can publish to it.
DUE_EXCHANGE: Final = "jobkit.due"

#: Keeps the delayed messages that no queue takes. ``jobkit dead-letters jobkit`` lists them.
UNROUTABLE_QUEUE: Final = dead_letter_queue(PLATFORM)

_ANY_DELAY: Final = "*." * LEVELS


def due_queue(queue: str) -> str:
    """Return the name of the queue that delayed messages for ``queue`` come to when they are due."""
    return f"{DUE_QUEUES}{queue}"


def declare_exchange(channel: Declares) -> None:
    """Make the exchange of the due queues, and the queue for what none of them takes.

    Raises:
        TopologyMismatch: One of them exists with other arguments.
    """
    try:
        declare_dead_letters(channel, PLATFORM)
        parking = {"alternate-exchange": dead_letter_exchange(PLATFORM)}
        channel.exchange_declare(DUE_EXCHANGE, "topic", durable=True, internal=True, arguments=parking)
        channel.exchange_bind(DUE_EXCHANGE, DELIVERY_EXCHANGE, f"{_ANY_DELAY}{DUE_QUEUES}#")
    except pika.exceptions.ChannelClosedByBroker as error:
        raise explain_mismatch(error) from error


def declare_queue(channel: Declares, queue: str) -> None:
    """Make the due queue of ``queue``, and let delayed messages reach it.

    Its dead-letter target is the default exchange, where every queue is bound under its name: no binding can be lost.

    Raises:
        TopologyMismatch: It exists with other arguments.
    """
    try:
        channel.queue_declare(
            due_queue(queue),
            durable=True,
            arguments={
                **DURABLE_QUORUM,
                "x-message-ttl": 0,
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": queue,
                "x-dead-letter-strategy": "at-least-once",
            },
        )
        channel.queue_bind(due_queue(queue), DUE_EXCHANGE, f"{_ANY_DELAY}{due_queue(queue)}")
    except pika.exceptions.ChannelClosedByBroker as error:
        raise explain_mismatch(error) from error
