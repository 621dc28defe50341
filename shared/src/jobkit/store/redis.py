"""The job store in Redis: one hash per job that is not done, a mark for one that is, one Lua script per transition."""

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, fields
from datetime import timedelta
from typing import Any

from jobkit.errors import JobkitError
from jobkit.rounds import read, round_of, written
from jobkit.store.base import (
    CLOCK_SKEW,
    DUE_SLACK,
    MOST_SEEN,
    RESULT_TTL,
    Answer,
    Buried,
    Claim,
    Completed,
    Finished,
    Heartbeat,
    Held,
    JobKey,
    JobRecord,
    JobState,
    Lease,
    Process,
    Record,
    Released,
    Suspect,
)
from jobkit.store.marks import digest, read_mark, stem
from jobkit.store.redis_client import BREAKER, NOW, Argument, Lua, RedisClient, lua
from jobkit.time import milliseconds

#: The scripts, each with the parts that stand before it.
_SCRIPTS = {
    "acquire": ("prelude", "marks"),
    "renew": ("prelude", "marks"),
    "finish": ("prelude", "marks"),
    "release": ("prelude", "marks"),
    "record": ("marks",),
    "report": ("prelude",),
    "remember": ("prelude",),
    "forget": ("prelude",),
    "checkpoint": ("prelude",),
    "declare_dead": (),
    "processes": (),
}

_JOB = "job:"  #: followed by service, actor and id
_RESULT = "result:"  #: the same, of a job that is done
_DONE = "done:"  #: followed by the service, and what names the marks of its jobs
_PROCESS = "process:"  #: followed by its name
_PROCESSES = "processes:"  #: followed by the service


#: What a claim is told of its breaker.
_BREAKER_OPEN = {b"": None, b"0": False, b"1": True}

_SLACK, _SKEW = milliseconds(DUE_SLACK), milliseconds(CLOCK_SKEW)

#: A script, its keys, and its arguments.
_Call = tuple[str, Sequence[str], Sequence[Argument]]


def _answered(claim: Claim, answer: Any) -> Answer:
    """What Redis's answer to a claim means."""
    verdict, *details = answer
    match verdict:
        case b"leased":
            *numbers, stalled = (int(number) for number in details[:-2])
            rounds, breaker_open = read(details[-2].decode()), _BREAKER_OPEN[details[-1]]
            return Lease(
                claim.job, claim.owner, *numbers, rounds=rounds, stalled=bool(stalled), breaker_open=breaker_open
            )
        case b"suspect":
            return Suspect(int(details[0]))
        case b"held":
            return Held(timedelta(milliseconds=int(float(details[0]))), JobState(details[1].decode()))
        case state:
            return Finished(JobState(state.decode()))


def _field(name: str) -> str:
    """The field of a record that keeps what is remembered under ``name``."""
    return f"made:{name}" if name else "made"


def _process(about: bytes) -> Process:
    said = json.loads(about)
    known = {field.name: said[field.name] for field in fields(Process)}  # a newer version may say more
    return Process(**{**known, "queues": tuple(said["queues"]), "running": tuple(said["running"])})


class RedisStore:
    """Keeps the promises of ``JobStore`` across processes and machines.

    Redis must not lose what it has acknowledged: append-only file on, ``maxmemory-policy noeviction``.

    Args:
        url: ``redis://user:password@host:port/database``.
        record_ttl: How long a record outlives its last change. Marks of done jobs live for up to half as long again.
        timeout: Seconds to connect, and seconds for an answer.
        namespace: ``JOBKIT_NAMESPACE`` of the workers whose records these are.
        result_ttl: How long the result of a done job is kept, and its progress; at most as long as the record.
        keep_done: Keep the record of a done job beside its mark, for versions that know no marks.
    """

    def __init__(
        self,
        url: str,
        record_ttl: timedelta = timedelta(days=1),
        timeout: float = 2.0,
        namespace: str = "",
        result_ttl: timedelta = RESULT_TTL,
        *,
        keep_done: bool = False,
    ) -> None:
        self._ttl, self._result_ttl = milliseconds(record_ttl), milliseconds(result_ttl)
        self._keep_done = int(keep_done)
        self._client = RedisClient(url, timeout, namespace)
        self._lua = {name: Lua(self._script(name)) for name in _SCRIPTS}
        # Each job needs these twice or more.
        self._jobs, self._results, self._marks = (self._client.key(name) for name in (_JOB, _RESULT, _DONE))
        self._process = self._client.key(_PROCESS)

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
        instead_of: str = "",
        ahead: bool = False,
        breaker: str = "",
    ) -> Lease | Held | Suspect | Finished:
        claim = Claim(
            job,
            owner,
            sent_at=sent_at,
            job_round=job_round,
            attempts_before=attempts_before,
            alone_at=alone_at,
            alone=alone,
            due_at=due_at,
            delay=delay,
            instead_of=instead_of,
            ahead=ahead,
            breaker=breaker,
        )
        return _answered(claim, self._run(*self._claim(claim, ttl)))

    def acquire_all(self, claims: Sequence[Claim], ttl: timedelta) -> list[Answer | JobkitError]:
        answers = self._client.run([self._call(*self._claim(claim, ttl)) for claim in claims])
        return [
            answer if isinstance(answer, JobkitError) else _answered(claim, answer)
            for claim, answer in zip(claims, answers, strict=True)
        ]

    def end_all(self, records: Sequence[Record]) -> list[bool | JobkitError]:
        answers = self._client.run([self._call(*self._end(record)) for record in records])
        return [answer if isinstance(answer, JobkitError) else bool(answer) for answer in answers]

    def renew(self, leases: Sequence[Lease], ttl: timedelta, process: Process | None = None) -> list[bool]:
        if not leases and process is None:
            return []
        name, service, about = (process.name, process.service, json.dumps(asdict(process))) if process else ("", "", "")
        records = [self._key(lease.job) for lease in leases]
        told = [value for lease in leases for value in self._told(lease)]
        held = self._run(
            "renew",
            [self._client.key(_PROCESS + name), self._client.key(_PROCESSES + service), *records],
            [milliseconds(ttl), self._ttl, name, about, *told],
        )
        return [bool(answer) for answer in held]

    def declare_dead(self, process: str, service: str, begun: Collection[int]) -> None:
        numbers = "".join(f"{number}," for number in begun)
        self._run("declare_dead", [self._client.key(_PROCESS + process)], [f",{numbers}", self._ttl])

    def processes(self, service: str) -> list[Heartbeat]:
        rows = self._run("processes", [self._client.key(_PROCESSES + service)], [self._client.key(_PROCESS)])
        return [Heartbeat(_process(about), int(beat_at), bool(is_alive)) for about, beat_at, is_alive in rows]

    def complete(self, lease: Lease, result: bytes) -> bool:
        return bool(self._run(*self._end(Record(lease, Completed(result)))))

    def bury(self, lease: Lease, *, failure: str) -> bool:
        return bool(self._run(*self._end(Record(lease, Buried(failure)))))

    def release(self, lease: Lease, *, delay: timedelta, counted: bool, failure: str = "", waits_for: str = "") -> bool:
        return bool(self._run(*self._end(Record(lease, Released(delay, counted, failure, waits_for)))))

    def report(self, lease: Lease, *, percent: float, step: str, note: str) -> bool:
        arguments: list[Argument] = [lease.fence, lease.owner, percent, step, note]
        return bool(self._run("report", [self._key(lease.job)], arguments))

    def remember(self, lease: Lease, name: str, value: bytes) -> bytes | None:
        arguments: list[Argument] = [lease.fence, lease.owner, _field(name), value]
        stored: bytes | None = self._run("remember", [self._key(lease.job)], arguments)
        return stored

    def forget(self, lease: Lease, name: str) -> bool:
        return bool(self._run("forget", [self._key(lease.job)], [lease.fence, lease.owner, _field(name)]))

    def checkpoint(self, lease: Lease) -> bool:
        return bool(self._run("checkpoint", [self._key(lease.job)], [lease.fence, lease.owner]))

    def record(self, job: JobKey) -> JobRecord | None:
        row: dict[str, bytes]
        match self._run("record", [self._key(job), self._result(job)], [self._done(job), digest(job)]):
            case []:
                return None
            case [mark, result]:
                return read_mark(job, mark, result)
            case [raw]:
                row = {name.decode(): value for name, value in zip(raw[::2], raw[1::2], strict=True)}

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

    def _claim(self, claim: Claim, ttl: timedelta) -> _Call:
        arguments: list[Argument] = [
            *(claim.owner, milliseconds(ttl), self._ttl, claim.sent_at, claim.attempts_before, claim.job_round),
            *(_SLACK, claim.alone_at, int(claim.alone), claim.due_at, milliseconds(claim.delay) if claim.delay else 0),
            *(_SKEW, MOST_SEEN, self._process, claim.instead_of, int(claim.ahead)),
            *(self._done(claim.job), digest(claim.job)),
        ]
        breakers = [self._client.key(BREAKER.format(name=claim.breaker))] if claim.breaker else []
        return "acquire", [self._key(claim.job), *breakers], arguments

    def _end(self, record: Record) -> _Call:
        lease, end = record.lease, record.end
        more: list[Argument]
        match end:
            case Completed(result):
                name, more = "finish", [JobState.DONE, self._ttl, result, "", self._result_ttl, self._keep_done]
            case Buried(failure):
                name, more = "finish", [JobState.DEAD, self._ttl, b"", failure, 0, 0]
            case Released(delay, counted, failure, waits_for):
                name, more = "release", [milliseconds(delay), int(counted), self._ttl, failure, waits_for]
        keys = [self._key(lease.job), *([self._result(lease.job)] if name == "finish" else [])]
        return name, keys, self._told(lease) + more

    def _told(self, lease: Lease) -> list[Argument]:
        """What the scripts are told of a lease: enough to write its record again, and to find the job's mark."""
        numbers = [lease.attempt, lease.crashes, lease.first_failed_at, lease.sent_at]
        mark = digest(lease.job), stem(lease)
        return [lease.fence, lease.owner, *numbers, written(lease.rounds), self._done(lease.job), *mark]

    def _call(self, name: str, keys: Sequence[str], arguments: Sequence[Argument]) -> tuple[Lua, Sequence[str], Any]:
        return self._lua[name], keys, arguments

    def _run(self, name: str, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """The answer of one script; raises what it has met."""
        (answer,) = self._client.run([self._call(name, keys, arguments)])
        if isinstance(answer, JobkitError):
            raise answer
        return answer

    def _script(self, name: str) -> str:
        return NOW + lua("jobkit.store", *_SCRIPTS[name], name)

    def _key(self, job: JobKey) -> str:
        return f"{self._jobs}{job.service}:{job.actor}:{job.id}"

    def _result(self, job: JobKey) -> str:
        return f"{self._results}{job.service}:{job.actor}:{job.id}"

    def _done(self, job: JobKey) -> str:
        """What the keys of its service's marks begin with."""
        return f"{self._marks}{job.service}:"
