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
        What exists and could not be compared, and what could not be bound, as the user lacks the permission: one line.
        It is empty if all was declared.

    Raises:
        TopologyMismatch: Something exists with other arguments.
        DeclarationRefused: Something does not exist, and the user may not make it.
    """
    delays, own = Declarations(connection, all_or_none=True), Declarations(connection)
    ladder.declare_ladder(delays)
    for queue in queues:
        topology.declare_queue(own, queue)
        ladder.bind(own, queue)
    return _complaint(delays.not_compared + own.not_compared, delays.not_bound + own.not_bound)


def _complaint(not_compared: list[str], not_bound: list[str]) -> str:
    parts = []
    if not_compared:
        parts.append(
            f"the user in JOBKIT_BROKER_URL may not declare {_and_more(not_compared)}; they are used as they are, and "
            "their arguments were not compared with jobkit's"
        )
    if not_bound:
        parts.append(
            f"the user in JOBKIT_BROKER_URL may not bind {_and_more(not_bound)}. AMQP cannot tell whether a binding "
            "exists: without it, delayed jobs and retries do not arrive. Let an administrator's worker declare it, or "
            "import the definitions"
        )
    return "; ".join(parts)


def _and_more(things: list[str]) -> str:
    return things[0] + (f" and {len(things) - 1} more" if len(things) > 1 else "")


class Declarations:
    """Declares on a channel of its own, and looks whether a thing exists if it may not be declared.

    Args:
        connection: The broker.
        all_or_none: Try no more declarations after the first that is refused, and no more bindings after the first,
            as each refusal costs a channel. A user who may not declare may bind.
    """

    def __init__(self, connection: BlockingConnection, *, all_or_none: bool = False) -> None:
        self._connection = connection
        self._channel: BlockingChannel | None = None
        self._all_or_none = all_or_none
        self.not_compared: list[str] = []
        self.not_bound: list[str] = []
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
        """Bind a queue; note a binding that may not be made, as AMQP cannot tell whether it exists."""
        what = f"queue {queue!r} to exchange {exchange!r}"
        self._declare(what, lambda channel: channel.queue_bind(queue, exchange, routing_key or None), None)

    def exchange_bind(self, destination: str, source: str, routing_key: str) -> None:
        """Bind an exchange; note a binding that may not be made, as AMQP cannot tell whether it exists."""
        what = f"exchange {destination!r} to exchange {source!r}"
        self._declare(what, lambda channel: channel.exchange_bind(destination, source, routing_key), None)

    def _declare(
        self,
        what: str,
        declare: Callable[[BlockingChannel], object],
        look: Callable[[BlockingChannel], object] | None,
    ) -> None:
        refused_before = self.not_bound if look is None else self.not_compared
        if not (self._all_or_none and refused_before):
            try:
                declare(self._open_channel())
            except pika.exceptions.ChannelClosedByBroker as refusal:
                if refusal.reply_code != _ACCESS_REFUSED:
                    raise
                self._words = refusal.reply_text
            else:
                return
        if look is None:
            self.not_bound.append(what)
            return
        self.not_compared.append(what)
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
