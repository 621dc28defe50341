"""The job store in Redis: one hash per job, one Lua script per transition."""

from collections.abc import Sequence
from datetime import timedelta
from importlib.resources import files

from jobkit.rounds import read, round_of, written
from jobkit.store.base import (
    CLOCK_SKEW,
    DUE_SLACK,
    MOST_SEEN,
    Finished,
    Held,
    JobKey,
    JobRecord,
    JobState,
    Lease,
    Suspect,
)
from jobkit.store.redis_client import NOW, Argument, RedisClient
from jobkit.time import milliseconds

_KEY = "job:{service}:{actor}:{id}"


def _told(lease: Lease) -> list[Argument]:
    """What the scripts are told of a lease: enough to write its record again."""
    numbers = [lease.attempt, lease.crashes, lease.first_failed_at, lease.sent_at]
    return [lease.fence, lease.owner, *numbers, written(lease.rounds)]


def _field(name: str) -> str:
    """The field of a record that keeps what is remembered under ``name``."""
    return f"made:{name}" if name else "made"


class RedisStore:
    """Keeps the promises of ``JobStore`` across processes and machines.

    Redis must not lose what it has acknowledged: append-only file on, ``maxmemory-policy noeviction``.

    Args:
        url: ``redis://user:password@host:port/database``.
        record_ttl: How long a record outlives its last change.
        timeout: Seconds to connect, and seconds for an answer.
        namespace: ``JOBKIT_NAMESPACE`` of the workers whose records these are.
    """

    def __init__(
        self, url: str, record_ttl: timedelta = timedelta(days=1), timeout: float = 2.0, namespace: str = ""
    ) -> None:
        self._ttl = milliseconds(record_ttl)
        self._client = RedisClient(url, timeout, namespace)
        self._acquire, self._renew, self._finish, self._release = (
            self._client.script(self._script(name)) for name in ("acquire", "renew", "finish", "release")
        )
        self._report, self._remember, self._forget, self._checkpoint = (
            self._client.script(self._script(name)) for name in ("report", "remember", "forget", "checkpoint")
        )

    def acquire(
        self,
        job: JobKey,
        owner: str,
        *,
        ttl: timedelta,
        sent_at: int,
        job_round: int = 0,
        attempts_before: int = 0,
        alone_at: int = 0,
        alone: bool = False,
        due_at: int = 0,
        delay: timedelta = timedelta(),
    ) -> Lease | Held | Suspect | Finished:
        arguments: list[Argument] = [
            *(owner, milliseconds(ttl), self._ttl, sent_at, attempts_before, job_round, milliseconds(DUE_SLACK)),
            *(alone_at, int(alone), due_at, milliseconds(delay), milliseconds(CLOCK_SKEW), MOST_SEEN),
        ]
        verdict, *details = self._acquire([self._key(job)], arguments)
        match verdict.decode():
            case "leased":
                *numbers, stalled = (int(number) for number in details[:-1])
                rounds = read(details[-1].decode())
                return Lease(job, owner, *numbers, rounds=rounds, stalled=bool(stalled))
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
        held = self._renew(keys, [milliseconds(ttl), self._ttl, *told])
        return [bool(answer) for answer in held]

    def complete(self, lease: Lease, result: bytes) -> bool:
        arguments = [*_told(lease), JobState.DONE, self._ttl, result, ""]
        return bool(self._finish([self._key(lease.job)], arguments))

    def bury(self, lease: Lease, *, failure: str) -> bool:
        arguments = [*_told(lease), JobState.DEAD, self._ttl, b"", failure]
        return bool(self._finish([self._key(lease.job)], arguments))

    def release(self, lease: Lease, *, delay: timedelta, counted: bool, failure: str = "", waits_for: str = "") -> bool:
        arguments = [*_told(lease), milliseconds(delay), int(counted), self._ttl, failure, waits_for]
        return bool(self._release([self._key(lease.job)], arguments))

    def report(self, lease: Lease, *, percent: float, step: str, note: str) -> bool:
        arguments: list[Argument] = [lease.fence, lease.owner, percent, step, note]
        return bool(self._report([self._key(lease.job)], arguments))

    def remember(self, lease: Lease, name: str, value: bytes) -> bytes | None:
        arguments: list[Argument] = [lease.fence, lease.owner, _field(name), value]
        stored: bytes | None = self._remember([self._key(lease.job)], arguments)
        return stored

    def forget(self, lease: Lease, name: str) -> bool:
        return bool(self._forget([self._key(lease.job)], [lease.fence, lease.owner, _field(name)]))

    def checkpoint(self, lease: Lease) -> bool:
        return bool(self._checkpoint([self._key(lease.job)], [lease.fence, lease.owner]))

    def record(self, job: JobKey) -> JobRecord | None:
        raw = self._client.ask("HGETALL", self._key(job))
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
            waits_for=text("waits_for"),
            round=round_of(read(text("rounds")), number("sent_at")),
        )

    def ping(self) -> None:
        self._client.ask("PING")

    def close(self) -> None:
        self._client.close()

    def _script(self, name: str) -> str:
        lua = files("jobkit.store") / "lua"
        return NOW + "".join((lua / f"{part}.lua").read_text("utf-8") for part in ("prelude", name))

    def _key(self, job: JobKey) -> str:
        return self._client.key(_KEY.format(service=job.service, actor=job.actor, id=job.id))
