"""Job stores whose clock a test moves, and whose records it can take away or put back."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from copy import copy
from datetime import timedelta
from typing import Protocol

import redis

from jobkit.store.base import JobKey, JobStore
from jobkit.store.marks import digest
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

    def let_result_expire(self, job: JobKey) -> None:
        """End the time for which the result of a done job is kept."""

    def expires(self, job: JobKey) -> bool:
        """Whether the record has an end, so that it does not take memory for ever."""


class StagedMemory:
    """The store in memory, with the clock that it has a parameter for."""

    def __init__(self) -> None:
        self._now = 0
        self._memory = MemoryStore(RECORD_TTL, lambda: self._now / 1000, result_ttl=RECORD_TTL)
        self.store: JobStore = self._memory

    def set_clock(self, now: int) -> None:
        self._now = now

    def copy_of(self, job: JobKey) -> object:
        return copy(self._memory._rows.get(job))

    def put_back(self, job: JobKey, record: object) -> None:
        self._memory._rows.pop(job, None)
        if record is not None:
            self._memory._rows[job] = copy(record)  # type: ignore[assignment]  # it is what copy_of gave

    def let_result_expire(self, job: JobKey) -> None:
        self._memory._rows[job].result_until = 0

    def expires(self, job: JobKey) -> bool:
        row = self._memory._rows[job]
        return row.expires_at > 0


class ClockKeyStore(RedisStore):
    """The same scripts, in which one expression is replaced: Redis' clock by a key that the test writes."""

    def _script(self, name: str) -> str:
        return super()._script(name).replace("redis.call('TIME')", f"redis.call('HMGET', '{_CLOCK}', 's', 'us')")


def set_clock(client: "redis.Redis", now: int) -> None:
    """Make it so many milliseconds since the epoch for every ``ClockKeyStore`` of this Redis."""
    client.hset(_CLOCK, mapping={"s": now // 1000, "us": now % 1000 * 1000})


class StagedRedis:
    """A real Redis that runs the real scripts by another clock; the life of its keys is still measured by its own."""

    def __init__(self, url: str) -> None:
        self._redis = ClockKeyStore(url, RECORD_TTL, result_ttl=RECORD_TTL)
        self._client: redis.Redis = self._redis._client._redis
        self.store: JobStore = self._redis

    def set_clock(self, now: int) -> None:
        set_clock(self._client, now)

    def copy_of(self, job: JobKey) -> object:
        marks = {bucket: self._client.hget(bucket, digest(job)) for bucket in self._buckets(job)}
        return [self._client.dump(key) for key in self._keys(job)], marks

    def put_back(self, job: JobKey, record: object) -> None:
        self._client.delete(*self._keys(job))
        for bucket in self._buckets(job):
            self._client.hdel(bucket, digest(job))
        if isinstance(record, tuple):
            values, marks = record
            for key, value in zip(self._keys(job), values, strict=True):
                if value is not None:
                    self._client.restore(key, 60_000, value)
            for bucket, mark in marks.items():
                if mark is not None:
                    self._client.hset(bucket, digest(job), mark)

    def let_result_expire(self, job: JobKey) -> None:
        self._client.delete(self._redis._result(job))

    def expires(self, job: JobKey) -> bool:
        keys = [*self._keys(job), *self._buckets(job)]
        return all(self._client.pttl(key) > 0 for key in keys if self._client.exists(key))

    def _keys(self, job: JobKey) -> list[str]:
        return [self._redis._key(job), self._redis._result(job)]

    def _buckets(self, job: JobKey) -> list[str]:
        """The hashes in which the job's mark may be, one of each generation."""
        done = self._redis._done(job)
        found = self._client.get(f"{done}generations")
        generations = found.decode() if isinstance(found, bytes) else ""
        return [f"{done}{one.partition(':')[0]}:{digest(job)[0]}" for one in generations.split(",")[:-1]]


@contextmanager
def staged(kind: str, redis_url: str) -> Iterator[StagedStore]:
    """The store of that kind, closed at the end."""
    stage: StagedStore = StagedRedis(redis_url) if kind == "redis" else StagedMemory()
    with closing(stage.store):
        yield stage
