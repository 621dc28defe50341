"""Declaring as a user who may not: what exists already is used as it is.

RabbitMQ answers 403 to a declaration without the ``configure`` permission, also if it would change nothing, and closes
the channel. A passive declaration needs no permission (https://www.rabbitmq.com/docs/access-control#authorisation).
"""

from collections.abc import Callable, Iterable
from typing import Any, Final

import pika.exceptions
from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection

from jobkit.broker import ladder, topology
from jobkit.errors import DeclarationRefused

_ACCESS_REFUSED: Final = 403
_NOT_FOUND: Final = 404


def declare(connection: BlockingConnection, queues: Iterable[str]) -> str:
    """Make the queues with the delay ladder and what binds them, unless they exist.

    Returns:
        A sentence about what exists and could not be compared, as its user may not declare it; empty if all was.

    Raises:
        TopologyMismatch: Something exists with other arguments.
        DeclarationRefused: Something does not exist, and the user may not make it.
    """
    delays, own = Declarations(connection, all_or_none=True), Declarations(connection)
    ladder.declare_ladder(delays)
    for queue in queues:
        topology.declare_queue(own, queue)
        ladder.bind(own, queue)
    refused = delays.not_compared + own.not_compared
    if not refused:
        return ""
    return (
        f"the user in JOBKIT_BROKER_URL may not declare {refused[0]} and {len(refused) - 1} more; they are used as "
        "they are, and their arguments were not compared with jobkit's"
    )


class Declarations:
    """Declares on a channel of its own, and looks whether a thing exists if it may not be declared.

    Args:
        connection: The broker.
        all_or_none: After the first refusal only look, as each refusal costs a channel.
    """

    def __init__(self, connection: BlockingConnection, *, all_or_none: bool = False) -> None:
        self._connection = connection
        self._channel: BlockingChannel | None = None
        self._all_or_none = all_or_none
        self.not_compared: list[str] = []
        self._words = ""  # of the broker's last refusal

    def exchange_declare(self, exchange: str, kind: str, *, durable: bool) -> None:
        """Declare an exchange; raises ``DeclarationRefused`` if it is missing and may not be made."""
        self._declare(
            f"exchange {exchange!r}",
            lambda channel: channel.exchange_declare(exchange, kind, durable=durable),
            lambda channel: channel.exchange_declare(exchange, passive=True),
        )

    def queue_declare(self, queue: str, *, durable: bool, arguments: dict[str, Any]) -> None:  # Any: AMQP's fields
        """Declare a queue; raises ``DeclarationRefused`` if it is missing and may not be made."""
        self._declare(
            f"queue {queue!r}",
            lambda channel: channel.queue_declare(queue, durable=durable, arguments=arguments),
            lambda channel: channel.queue_declare(queue, passive=True),
        )

    def queue_bind(self, queue: str, exchange: str, routing_key: str = "") -> None:
        """Bind a queue; a binding that may not be made is taken to exist."""
        what = f"the binding of {queue!r} to {exchange!r}"
        self._declare(what, lambda channel: channel.queue_bind(queue, exchange, routing_key or None), None)

    def exchange_bind(self, destination: str, source: str, routing_key: str) -> None:
        """Bind an exchange; a binding that may not be made is taken to exist."""
        what = f"the binding of {destination!r} to {source!r}"
        self._declare(what, lambda channel: channel.exchange_bind(destination, source, routing_key), None)

    def _declare(
        self,
        what: str,
        declare: Callable[[BlockingChannel], object],
        look: Callable[[BlockingChannel], object] | None,
    ) -> None:
        if not (self._all_or_none and self.not_compared):
            try:
                declare(self._open_channel())
            except pika.exceptions.ChannelClosedByBroker as refusal:
                if refusal.reply_code != _ACCESS_REFUSED:
                    raise
                self._words = refusal.reply_text
            else:
                return
        self.not_compared.append(what)
        if look is None:
            return
        try:
            look(self._open_channel())
        except pika.exceptions.ChannelClosedByBroker as missing:
            if missing.reply_code != _NOT_FOUND:
                raise
            raise DeclarationRefused(
                f"RabbitMQ has no {what}, and the user in JOBKIT_BROKER_URL may not make it ({self._words}): give the "
                "user the permission, or import the definitions"
            ) from missing

    def _open_channel(self) -> BlockingChannel:
        if self._channel is None or not self._channel.is_open:
            self._channel = self._connection.channel()
        return self._channel
