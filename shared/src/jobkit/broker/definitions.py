"""The queues, exchanges and bindings of services as RabbitMQ imports them (https://www.rabbitmq.com/docs/definitions)."""

from collections.abc import Iterable
from typing import Any, Final

from jobkit.broker import due, ladder, topology
from jobkit.broker.ladder import DELIVERY_EXCHANGE
from jobkit.contracts.job import PLATFORM

#: Parks delayed messages of earlier versions and of other clients if their queue is gone. What workers declare covers
#: their own only: the arguments of this exchange cannot be changed while it exists, but a policy can be added.
_PARKING_POLICY: Final = {
    "name": DELIVERY_EXCHANGE,
    "pattern": "^jobkit\\.delivery$",
    "apply-to": "exchanges",
    "priority": 0,
    "definition": {"alternate-exchange": topology.dead_letter_exchange(PLATFORM)},
}


class _Document:
    """Notes declarations. It has what ``topology.Declares`` asks of a channel."""

    def __init__(self, vhost: str) -> None:
        self._vhost = vhost
        self.exchanges: dict[str, dict[str, Any]] = {}  # Any: AMQP's fields
        self.queues: dict[str, dict[str, Any]] = {}
        self.bindings: list[dict[str, Any]] = []

    def exchange_declare(
        self,
        exchange: str,
        kind: str,
        /,
        *,
        durable: bool,
        internal: bool = False,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        kept = {"durable": durable, "auto_delete": False, "arguments": arguments or {}}
        self.exchanges[exchange] = {"name": exchange, "vhost": self._vhost, "type": kind, "internal": internal, **kept}

    def queue_declare(self, queue: str, /, *, durable: bool, arguments: dict[str, Any]) -> None:
        kept = {"durable": durable, "auto_delete": False, "arguments": arguments}
        self.queues[queue] = {"name": queue, "vhost": self._vhost, **kept}

    def queue_bind(self, queue: str, exchange: str, routing_key: str = "", /) -> None:
        self._bind("queue", queue, exchange, routing_key)

    def exchange_bind(self, destination: str, source: str, routing_key: str, /) -> None:
        self._bind("exchange", destination, source, routing_key)

    def _bind(self, kind: str, destination: str, source: str, key: str) -> None:
        ends = {"source": source, "vhost": self._vhost, "destination": destination, "destination_type": kind}
        binding = {**ends, "routing_key": key, "arguments": {}}
        if binding not in self.bindings:
            self.bindings.append(binding)


def definitions(queues: Iterable[str], vhost: str) -> dict[str, list[dict[str, Any]]]:  # Any: JSON
    """Return all that workers and producers of these queues declare, for a virtual host that exists."""
    document = _Document(vhost)
    ladder.declare_ladder(document)
    due.declare_exchange(document)
    for queue in queues:
        topology.declare_queue(document, queue)
        topology.declare_jobs_exchange(document, queue)
        ladder.bind(document, queue)
        due.declare_queue(document, queue)
    return {
        "exchanges": list(document.exchanges.values()),
        "queues": list(document.queues.values()),
        "bindings": document.bindings,
        "policies": [{"vhost": vhost, **_PARKING_POLICY}],
    }
