"""The store as one process reaches it, or does not."""

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any, Protocol

from jobkit.errors import StoreUnavailable
from jobkit.store.base import Lease, Process
from jobkit.store.memory import MemoryStore


class Outage(Protocol):
    """The world, as far as it matters here."""

    now: float
    store: MemoryStore
    away_until: float


class Reach:
    """What the lease keeper and the path call of the store. Claims and records are carried out by the world.

    Args:
        world: Says until when the store is away from everybody.

    Attributes:
        cut_off_until: Until when nothing of this process reaches it.
        silent_until: Until when no beat does: beats have a connection of their own.
    """

    def __init__(self, world: Outage) -> None:
        self._world = world
        self.cut_off_until = self.silent_until = 0.0

    @property
    def calls_fail_until(self) -> float:
        return max(self._world.away_until, self.cut_off_until)

    @property
    def beats_fail_until(self) -> float:
        return max(self._world.away_until, self.cut_off_until, self.silent_until)

    def check(self) -> None:
        """Raise ``StoreUnavailable`` if no call arrives."""
        if self._world.now < self.calls_fail_until:
            raise StoreUnavailable("away")

    def renew(self, leases: Sequence[Lease], ttl: timedelta, process: Process | None = None) -> list[bool]:
        if self._world.now < self.beats_fail_until:
            raise StoreUnavailable("away")
        return self._world.store.renew(leases, ttl, process)

    def release(self, lease: Lease, **how: Any) -> bool:
        self.check()
        return self._world.store.release(lease, **how)

    def declare_dead(self, process: str, service: str, begun: Collection[int]) -> None:
        self.check()
        self._world.store.declare_dead(process, service, begun)

    def ping(self) -> None:
        self.check()
