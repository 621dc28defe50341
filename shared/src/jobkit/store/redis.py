"""The job store in Redis: one hash per job, one Lua script per transition."""

from collections.abc import Callable, Sequence
from datetime import timedelta
from importlib.resources import files
from typing import Any, TypeVar
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError
from redis.retry import Retry

from jobkit.errors import StoreUnavailable
from jobkit.store.base import DUE_SLACK, Finished, Held, JobKey, JobRecord, JobState, Lease, Suspect
from jobkit.time import milliseconds

T = TypeVar("T")

Argument = str | bytes | int | float

_KEY = "jobkit:job:{actor}:{id}"


def connect(url: str, timeout: float) -> "redis.Redis":
    """A client that answers or fails within ``timeout`` seconds; waiting out an outage is its user's decision."""
    return redis.Redis.from_url(
        url,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        health_check_interval=30,
        retry=Retry(NoBackoff(), 1),  # once: a connection that went stale while idle is no outage
        client_name="jobkit",
    )


def describe(error: RedisError, url: str) -> str:
    """One line that says what to do about an error of the store, without any password."""
    parts = urlsplit(url)  # the query may hold a password too
    where = f"{parts.netloc}{parts.path}".rsplit("@", 1)[-1]
    if isinstance(error, AuthenticationError):
        return f"Redis at {where} refused the user or password in JOBKIT_STORE_URL ({error})"
    return f"Redis at {where} (JOBKIT_STORE_URL) does not take commands: {error}"


def _told(lease: Lease) -> list[Argument]:
    """What the scripts are told of a lease: enough to write its record anew."""
    return [lease.fence, lease.owner, lease.attempt, lease.crashes, lease.first_failed_at, lease.sent_at]


class RedisStore:
    """Keeps the promises of ``JobStore`` across processes and machines.

    Redis must not lose what it has acknowledged: append-only file on, ``maxmemory-policy noeviction``.

    Args:
        url: ``redis://user:password@host:port/database``.
        record_ttl: How long a record outlives its last change.
        timeout: Seconds for one call.
    """

    def __init__(self, url: str, record_ttl: timedelta = timedelta(days=1), timeout: float = 2.0) -> None:
        self._url = url
        self._ttl = milliseconds(record_ttl)
        self._client = connect(url, timeout)
        self._acquire, self._renew, self._finish, self._release, self._report = (
            self._client.register_script(self._script(name))
            for name in ("acquire", "renew", "finish", "release", "report")
        )

    def acquire(
        self,
        job: JobKey,
        owner: str,
        *,
        ttl: timedelta,
        sent_at: int,
        attempts_before: int = 0,
        revived: bool = False,
        alone_at: int = 0,
        alone: bool = False,
    ) -> Lease | Held | Suspect | Finished:
        arguments: list[Argument] = [
            *(owner, milliseconds(ttl), self._ttl, sent_at, attempts_before, int(revived), milliseconds(DUE_SLACK)),
            *(alone_at, int(alone)),
        ]
        verdict, *details = self._call(lambda: self._acquire(keys=[self._key(job)], args=arguments))
        match verdict.decode():
            case "leased":
                return Lease(job, owner, *(int(number) for number in details))
            case "suspect":
                return Suspect(int(details[0]))
            case "held":
                return Held(timedelta(milliseconds=int(float(details[0]))), JobState(details[1].decode()))
            case state:
                return Finished(JobState(state))

    def renew(self, leases: Sequence[Lease], ttl: timedelta) -> list[bool]:
        if not leases:
            return []
        keys = [self._key(lease.job) for lease in leases]
        told = [value for lease in leases for value in _told(lease)]
        held = self._call(lambda: self._renew(keys=keys, args=[milliseconds(ttl), self._ttl, *told]))
        return [bool(answer) for answer in held]

    def complete(self, lease: Lease, result: bytes) -> bool:
        arguments = [*_told(lease), JobState.DONE, self._ttl, result, ""]
        return bool(self._call(lambda: self._finish(keys=[self._key(lease.job)], args=arguments)))

    def bury(self, lease: Lease, *, failure: str) -> bool:
        arguments = [*_told(lease), JobState.DEAD, self._ttl, b"", failure]
        return bool(self._call(lambda: self._finish(keys=[self._key(lease.job)], args=arguments)))

    def release(self, lease: Lease, *, delay: timedelta, counted: bool, failure: str = "") -> bool:
        arguments = [*_told(lease), milliseconds(delay), int(counted), self._ttl, failure]
        return bool(self._call(lambda: self._release(keys=[self._key(lease.job)], args=arguments)))

    def report(self, lease: Lease, *, percent: float, step: str, note: str) -> bool:
        arguments: list[Argument] = [lease.fence, lease.owner, percent, step, note]
        return bool(self._call(lambda: self._report(keys=[self._key(lease.job)], args=arguments)))

    def record(self, job: JobKey) -> JobRecord | None:
        raw = self._call(lambda: self._client.hgetall(self._key(job)))
        if not raw:
            return None
        row: dict[str, bytes] = {name.decode(): value for name, value in raw.items()}

        def number(name: str) -> int:
            return int(row.get(name, b"0"))

        def text(name: str) -> str:
            return row.get(name, b"").decode("utf-8", "replace")

        return JobRecord(
            job,
            JobState(text("state")),
            attempt=number("attempt"),
            crashes=number("crashes"),
            fence=number("fence"),
            started_at=number("started_at"),
            finished_at=number("finished_at"),
            due_at=number("due_at"),
            lease_until=number("lease_until"),
            percent=float(row.get("percent", b"0")),
            step=text("step"),
            note=text("note"),
            failure=text("failure"),
            result=row.get("result", b""),
        )

    def ping(self) -> None:
        self._call(self._client.ping)

    def close(self) -> None:
        self._client.close()

    def _script(self, name: str) -> str:
        lua = files("jobkit.store") / "lua"
        return "".join((lua / f"{part}.lua").read_text("utf-8") for part in ("prelude", name))

    @staticmethod
    def _key(job: JobKey) -> str:
        return _KEY.format(actor=job.actor, id=job.id)

    # Any: redis-py types the answer of a script as one union for the sync and the async client.
    def _call(self, command: Callable[[], Any]) -> Any:
        try:
            return command()
        except RedisError as error:
            raise StoreUnavailable(describe(error, self._url)) from error
