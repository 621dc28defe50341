"""Job stores whose clock a test moves, and whose records it can take away or put back."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from copy import copy
from datetime import timedelta
from typing import Protocol

import redis

from jobkit.store.base import JobKey, JobStore
from jobkit.store.memory import MemoryStore
from jobkit.store.redis import RedisStore

#: No clock that a test moves gets there, so that records are lost only where a test takes them.
RECORD_TTL = timedelta(days=10_000)

_CLOCK = "test:clock"


class StagedStore(Protocol):
    """A store, and what is otherwise the affair of operating systems and of fate."""

    store: JobStore

    def set_clock(self, now: int) -> None:
        """Make it so many milliseconds since the epoch."""

    def copy_of(self, job: JobKey) -> object:
        """The job's record as it is now, as a replica or the last write to disk has it; None if there is none."""

    def put_back(self, job: JobKey, record: object) -> None:
        """Let the record be as it was; None loses it."""

    def expires(self, job: JobKey) -> bool:
        """Whether the record has an end, so that it does not take memory for ever."""


class StagedMemory:
    """The store in memory, with the clock that it has a parameter for."""

    def __init__(self) -> None:
        self._now = 0
        self._memory = MemoryStore(RECORD_TTL, clock=lambda: self._now / 1000)
        self.store: JobStore = self._memory

    def set_clock(self, now: int) -> None:
        self._now = now

    def copy_of(self, job: JobKey) -> object:
        return copy(self._memory._rows.get(job))

    def put_back(self, job: JobKey, record: object) -> None:
        self._memory._rows.pop(job, None)
        if record is not None:
            self._memory._rows[job] = copy(record)  # type: ignore[assignment]  # it is what copy_of gave

    def expires(self, job: JobKey) -> bool:
        row = self._memory._rows[job]
        return row.expires_at > 0


class _ClockKeyStore(RedisStore):
    """The same scripts, in which one expression is replaced: Redis' clock by a key that the test writes."""

    def _script(self, name: str) -> str:
        return super()._script(name).replace("redis.call('TIME')", f"redis.call('HMGET', '{_CLOCK}', 's', 'us')")


class StagedRedis:
    """A real Redis that runs the real scripts by another clock; the life of its keys is still measured by its own."""

    def __init__(self, url: str) -> None:
        self._redis = _ClockKeyStore(url, RECORD_TTL)
        self._client: redis.Redis = self._redis._client._redis
        self.store: JobStore = self._redis

    def set_clock(self, now: int) -> None:
        self._client.hset(_CLOCK, mapping={"s": now // 1000, "us": now % 1000 * 1000})

    def copy_of(self, job: JobKey) -> object:
        return self._client.dump(self._redis._key(job))

    def put_back(self, job: JobKey, record: object) -> None:
        self._client.delete(self._redis._key(job))
        if isinstance(record, bytes):
            self._client.restore(self._redis._key(job), 60_000, record)

    def expires(self, job: JobKey) -> bool:
        return self._client.pttl(self._redis._key(job)) > 0


@contextmanager
def staged(kind: str, redis_url: str) -> Iterator[StagedStore]:
    """The store of that kind, closed at the end."""
    stage: StagedStore = StagedRedis(redis_url) if kind == "redis" else StagedMemory()
    with closing(stage.store):
        yield stage
