"""Messages on their way to the broker, and who waits for them."""

import threading
from dataclasses import dataclass, field

import pika

from jobkit.errors import SendError


@dataclass(slots=True)
class Outgoing:
    """One message, with what became of it."""

    exchange: str
    routing_key: str
    body: bytes
    properties: pika.BasicProperties
    error: SendError | None = None
    confirmed: bool = False


@dataclass(slots=True)
class Batch:
    """Messages whose sender waits for all of them."""

    remaining: int
    # A lock that is freed when all is done, not an Event: an interrupt of the waiting job could land inside an Event's
    # own code, with its lock taken, and the publisher would hang on it.
    done: threading.Lock = field(default_factory=threading.Lock)
    abandoned: bool = False

    def __post_init__(self) -> None:
        self.done.acquire()

    def wait(self, timeout: float) -> bool:
        """Whether all was settled within ``timeout`` seconds."""
        return self.done.acquire(timeout=max(0.0, timeout))


@dataclass(slots=True, eq=False)
class Entry:
    """A message in its sender's batch.

    Attributes:
        alone: A channel was closed while it was in flight: it is sent by itself, to see whose fault that was.
    """

    outgoing: Outgoing
    batch: Batch
    alone: bool = False

    def settle(self, error: SendError | None) -> None:
        """The broker has confirmed it, or ``error`` says why not."""
        self.outgoing.confirmed = error is None and self.outgoing.error is None
        self.outgoing.error = self.outgoing.error or error
        self.batch.remaining -= 1
        if not self.batch.remaining:
            self.batch.done.release()
