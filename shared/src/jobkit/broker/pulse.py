"""What a consumer shows of itself to the health check."""

import math
import time
from dataclasses import dataclass


@dataclass(slots=True)
class Pulse:
    """Written by the thread of a consumer, and read by the one that watches it. Times are of the monotonic clock."""

    beat_at: float = -math.inf  # the thread came by, with a subscription
    taken_at: float = -math.inf  # a message arrived
    asked: bool = False  # the watcher wants to know how many messages are ready
    ready: int | None = None  # the answer; none since the subscription began

    def beat(self) -> None:
        """The thread lives and is subscribed."""
        self.beat_at = time.monotonic()

    def took(self) -> None:
        """A message has arrived."""
        self.taken_at = time.monotonic()

    def answer(self, ready: int | None) -> None:
        """So many messages wait in the queue, for any of its consumers."""
        self.ready, self.asked = ready, False
