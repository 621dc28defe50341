"""Messages on their way to the broker, and who waits for them."""

import time
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

import pika

from jobkit.broker.ladder import target_of
from jobkit.errors import SendError


@dataclass(slots=True, eq=False)
class Outgoing:
    """One message, with what became of it.

    Attributes:
        error: Why it was not confirmed.
        settled: The broker has answered, or it is known that it will not.
        settled_at: When that was, by the monotonic clock.
        abandoned: Nobody waits for it any more.
        alone: A channel was closed while it was in flight. It is sent with no other beside it, to see which message
            the broker does not accept.
        detour: Why its own exchange did not take it, so that it was published to the default exchange.
    """

    exchange: str
    routing_key: str
    body: bytes
    properties: pika.BasicProperties
    error: SendError | None = None
    settled: bool = False
    settled_at: float = 0.0
    abandoned: bool = False
    alone: bool = False
    detour: SendError | None = None
    # A simple queue, no Event: an interrupt of the waiting job could land inside an Event's own code, with its lock
    # taken, and whoever drives the connection would hang on it. Most messages need none.
    _bell: SimpleQueue[None] | None = field(default=None, repr=False)

    @property
    def confirmed(self) -> bool:
        """Whether the broker has taken it."""
        return self.settled and self.error is None

    @property
    def queue(self) -> str:
        """The queue that it goes to, also after a delay."""
        return target_of(self.exchange, self.routing_key)

    def wait(self, timeout: float) -> bool:
        """Return whether it is settled, after ``timeout`` seconds or a ``ring``; one thread may wait."""
        if self._bell is None:
            self._bell = SimpleQueue()
        if not self.settled:  # else whoever settles it may not have seen the bell
            with suppress(Empty):
                self._bell.get(timeout=max(0.0, timeout))
        return self.settled

    def ring(self) -> None:
        """Wake up the thread that waits."""
        if self._bell is not None:
            self._bell.put(None)

    def settle(self, error: SendError | None) -> None:
        """Note that the broker has confirmed it, or why not. What is said first stands."""
        if not self.settled:
            self.error = self.error or error
            self.settled_at = time.monotonic()
            self.settled = True
        self.ring()

    def again(self) -> "Outgoing":
        """Return the same message, not sent yet."""
        return Outgoing(self.exchange, self.routing_key, self.body, self.properties)
