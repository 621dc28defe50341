"""A broker with one queue, in memory: confirms, delays, and deliveries that come back with their connection's end."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dramatiq import Message

from jobkit.deadletters import Failure


@dataclass
class Waiting:
    """A message in the queue, or on its way there."""

    message: Message[Any]
    due: float
    redelivered: bool = False


@dataclass
class Connection:
    """What a process has taken over one connection, and not settled."""

    taken: list[Message[Any]] = field(default_factory=list)
    is_lost: bool = False


class Broker:
    """One queue with confirms. What was taken over a connection that is lost comes back."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.waiting: list[Waiting] = []
        self.dead: list[tuple[Message[Any], Failure]] = []

    def enqueue(self, message: Message[Any], *, delay: int | None = None) -> None:
        self.waiting.append(Waiting(message, self._clock() + (delay or 0) / 1000))

    def bury(self, message: Message[Any], failure: Failure) -> None:
        self.dead.append((message, failure))

    def ready(self) -> Waiting | None:
        return next((one for one in self.waiting if one.due <= self._clock()), None)

    def take(self, connection: Connection) -> Waiting:
        one = self.ready()
        assert one is not None
        self.waiting.remove(one)
        connection.taken.append(one.message)
        return one

    def settle(self, connection: Connection, message: Message[Any], *, ack: bool) -> None:
        if connection.is_lost:
            return  # it is somebody else's delivery by now
        connection.taken.remove(message)
        if not ack:
            self.waiting.append(Waiting(message, self._clock(), redelivered=True))

    def lose(self, connection: Connection) -> None:
        connection.is_lost = True
        for message in connection.taken:
            self.waiting.append(Waiting(message, self._clock(), redelivered=True))
        connection.taken = []
