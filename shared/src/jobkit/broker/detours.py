"""Where jobs go while their service's exchange does not take them: the way by the default exchange."""

import logging
import re
import time
from collections.abc import Callable
from typing import Final

from jobkit.broker.topology import jobs_exchange
from jobkit.contracts.job import service_of
from jobkit.errors import SendError

#: Seconds until a service's exchange is tried again.
_LASTS: Final = 60.0

#: Pika's words and RabbitMQ's, the second from any version.
_CLOSED: Final = re.compile(r"Channel\.Close \(40[34]\): .*exchange '\w+\.jobs' in vhost")

log = logging.getLogger(__name__)


def ways_to(service: str) -> tuple[str, str]:
    """Return the exchanges that jobs of a service can be sent to: its own, and the default exchange instead."""
    return jobs_exchange(service), ""


class Detours:
    """Notes which exchanges do not take jobs, each for a minute.

    A service's exchange is missing while its workers are of an earlier version, and a user's permissions may not name
    it yet. Jobs go to the default exchange meanwhile, which every queue is bound to.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        logging.getLogger("pika.channel").addFilter(_is_not_ours)
        self._clock = clock
        self._noted: dict[tuple[str, str], tuple[float, SendError]] = {}
        self._told: set[str] = set()
        self._there: set[str] = set()

    def is_there(self, exchange: str) -> bool:
        """Whether a service's exchange is known to exist."""
        return exchange in self._there

    def found(self, exchange: str) -> None:
        """Note that a service's exchange exists."""
        self._there.add(exchange)

    def open(self, reason: SendError, exchange: str, queue: str = "") -> None:
        """Note why an exchange does not take jobs, for one queue or for all."""
        if not queue:
            self._there.discard(exchange)
        self._noted[exchange, queue] = self._clock() + _LASTS, reason

    def close(self, queue: str) -> None:
        """Forget what was noted of the queue's service: its exchange has been made, or the detour is closed as well."""
        for exchange, noted in list(self._noted):
            if service_of(exchange) == service_of(queue):
                self._noted.pop((exchange, noted), None)

    def reason(self, exchange: str, queue: str) -> SendError | None:
        """Return why jobs for the queue should go to the default exchange instead of to this one; None if not."""
        for noted in ("", queue) if self._noted else ():
            until, reason = self._noted.get((exchange, noted), (0.0, None))
            if self._clock() < until:
                return reason
        return None

    def tell(self, exchange: str) -> None:
        """Log that the default exchange has taken a job instead, once for each exchange."""
        if exchange not in self._told:
            self._told.add(exchange)
            log.warning(
                "the exchange %r is missing, lacks a binding, or refuses this user: jobs go to the default exchange "
                "instead. Start a worker of %r of this version, or import the definitions (jobkit definitions)",
                exchange,
                service_of(exchange),
            )


def _is_not_ours(record: logging.LogRecord) -> bool:
    """Drop pika's warning of a channel that was closed because of a service's exchange: ``tell`` says it once."""
    return _CLOSED.search(record.getMessage()) is None
