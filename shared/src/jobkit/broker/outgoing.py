"""Messages on their way to the broker, and who waits for them."""

import threading
import time
from dataclasses import dataclass, field

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
    # A lock that is freed when all is done, not an Event: an interrupt of the waiting job could land inside an Event's
    # own code, with its lock taken, and the publisher would hang on it.
    _done: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        self._done.acquire()

    @property
    def confirmed(self) -> bool:
        """Whether the broker has taken it."""
        return self.settled and self.error is None

    @property
    def queue(self) -> str:
        """The queue that it goes to, also after a delay."""
        return target_of(self.exchange, self.routing_key)

    def wait(self, timeout: float) -> bool:
        """Return whether it was settled within ``timeout`` seconds; one thread may wait."""
        if self.settled:
            return True
        return self._done.acquire(timeout=max(0.0, timeout))

    def settle(self, error: SendError | None) -> None:
        """Note that the broker has confirmed it, or why not."""
        self.error = self.error or error
        self.settled_at = time.monotonic()
        self.settled = True
        self._done.release()

    def again(self) -> "Outgoing":
        """Return the same message, not sent yet."""
        return Outgoing(self.exchange, self.routing_key, self.body, self.properties)
