"""Delays that the broker holds: a ladder of queues whose times to live are the powers of two.

A delay of 5 s is 4 s + 1 s: the message waits in the queue of level 2, falls through level 1, waits in that of level 0
and is delivered. The routing key spells the delay in binary, highest level first, and ends with the target's name, so
each level's topic exchange sees by one digit whether to hold the message or to pass it down. Nothing waits behind a
message with a longer delay, any delay below ``2 ** LEVELS`` seconds needs the same few queues, and a million delayed
messages cost the workers nothing. NServiceBus and kombu delay in the same way.
"""

import math
from datetime import timedelta
from typing import Final

import pika.exceptions

from jobkit.broker.topology import Declares, explain_mismatch
from jobkit.deadletters import DELAY_QUEUES, DUE_QUEUES

#: 2 ** 28 seconds are 8.5 years.
LEVELS: Final = 28

#: What comes out of the lowest level. Its arguments must stay as they are: every worker declares it.
DELIVERY_EXCHANGE: Final = "jobkit.delivery"


def level_name(level: int) -> str:
    """The name of a level's exchange and of its queue."""
    return f"{DELAY_QUEUES}{level:02}"


def held_for(delay: timedelta) -> timedelta:
    """Return ``delay`` if the broker can hold a message for as long; a moment that has passed means now.

    Raises:
        ValueError: The delay is longer than the broker can hold a message.
    """
    if math.ceil(delay.total_seconds()) >= 2**LEVELS:
        raise ValueError(
            f"a delay of {delay.total_seconds():,.0f} s is above {2**LEVELS - 1:,} s (8.5 years), the longest that the "
            "broker holds"
        )
    return max(delay, timedelta())


def route(queue: str, delay: timedelta, *, due: bool = True) -> tuple[str, str]:
    """Return the exchange and routing key that bring a message to ``queue`` after ``delay``, rounded up to seconds.

    Args:
        queue: The target.
        delay: Zero leads to the default exchange.
        due: By way of the target's due queue. Without it, a full target holds up delayed messages of other queues.

    Raises:
        ValueError: The delay is longer than the broker can hold a message.
    """
    whole = math.ceil(held_for(delay).total_seconds())
    if whole == 0:
        return "", queue
    digits = ".".join(f"{whole:0{LEVELS}b}")
    return level_name(whole.bit_length() - 1), f"{digits}.{DUE_QUEUES if due else ''}{queue}"


def target_of(exchange: str, key: str) -> str:
    """Return the queue that a routing key of ``route`` leads to, with a due queue or without."""
    return key.split(".", LEVELS)[-1].removeprefix(DUE_QUEUES) if exchange.startswith(DELAY_QUEUES) else key


def declare_ladder(channel: Declares) -> None:
    """Make the exchanges and queues of all levels, if they are not there.

    Raises:
        TopologyMismatch: one of them exists with other arguments.
    """
    try:
        channel.exchange_declare(DELIVERY_EXCHANGE, "topic", durable=True)
        for level in range(LEVELS):
            _declare_level(channel, level)
    except pika.exceptions.ChannelClosedByBroker as error:
        raise explain_mismatch(error) from error


def bind(channel: Declares, queue: str) -> None:
    """Let delayed messages reach ``queue`` without a due queue: those of earlier versions and of other clients.

    The pattern has exactly as many words as there are levels: ``#`` would also match ``x.queue``.
    """
    channel.queue_bind(queue, DELIVERY_EXCHANGE, f"{'*.' * LEVELS}{queue}")


def _declare_level(channel: Declares, level: int) -> None:
    name = level_name(level)
    below = level_name(level - 1) if level else DELIVERY_EXCHANGE
    higher_digits = "*." * (LEVELS - 1 - level)
    channel.exchange_declare(name, "topic", durable=True)
    channel.queue_declare(
        name,
        durable=True,
        arguments={
            "x-queue-type": "quorum",
            "x-overflow": "reject-publish",
            "x-message-ttl": 1000 * 2**level,
            "x-dead-letter-exchange": below,
            "x-dead-letter-strategy": "at-least-once",
        },
    )
    channel.queue_bind(name, name, f"{higher_digits}1.#")
    channel.exchange_bind(below, name, f"{higher_digits}0.#")
