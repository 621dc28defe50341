"""What a job store promises, whichever database keeps it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Protocol

from jobkit.contracts.job import service_of
from jobkit.errors import JobkitError
from jobkit.rounds import Rounds, round_of

#: A waiting job that is due this soon may run: the broker's delays have a resolution of one second.
DUE_SLACK = timedelta(seconds=1)

#: The most that the clocks of a sender and of the store may differ. A send is never answered with an earlier death.
CLOCK_SKEW = timedelta(minutes=10)

#: How long the result of a done job is kept, unless somebody says otherwise.
RESULT_TTL = timedelta(hours=1)

#: Sends, and rounds of them, that a record remembers. More of one job are rare, and the oldest are forgotten.
MOST_SEEN = 16


#: Of what travels in messages and stands in records. Workers of one service that differ in it must not run together.
GENERATION = 3

#: Jobs of a process that its heartbeat names.
MOST_NAMED = 100


class JobState(StrEnum):
    """Where a job stands."""

    RUNNING = "running"  #: leased; the lease may have expired
    WAITING = "waiting"  #: has run, and will run again when it is due
    DONE = "done"  #: completed; never runs again while the record lasts
    DEAD = "dead"  #: dead-lettered


@dataclass(frozen=True, slots=True)
class JobKey:
    """The identity of a job. Ids are per service and actor, so two kinds of job may use the same business key.

    >>> JobKey.of("email.high", "send_email", "welcome/17")
    JobKey(service='email', actor='send_email', id='welcome/17')
    """

    service: str
    actor: str
    id: str

    @classmethod
    def of(cls, queue: str, actor: str, job_id: str) -> "JobKey":
        """The identity of a job that was sent to ``queue``, or to a lane of it."""
        return cls(service_of(queue), actor, job_id)


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to run a job until it expires or a higher fence number is given out.

    Attributes:
        job: Whose lease it is.
        owner: New for every delivery: a process, by the random name that it has for its life, a colon, and a number.
        fence: Rises with every lease of the job. Hand it to a database that can refuse lower ones.
        attempt: Which run this is, from 1. Snoozes and interrupts do not count.
        crashes: Runs that ended without a word, because their worker died.
        first_failed_at: When the first attempt failed, in milliseconds since the epoch; 0 if none has.
        sent_at: The latest that the job was sent, of the deliveries that it was given to.
        crashes_before: Those before the job's last checkpoint. ``attempt`` and ``crashes`` count from there.
        rounds: Those above 0 that the job has run in, this run included, for a record that has to be written again.
        stalled: Whether the lease before this one ended without an end of the job. Told once.
        breaker_open: Whether the breaker that the claim named was open when it was answered. None if it named none, or
            the store keeps no breakers.
    """

    job: JobKey
    owner: str
    fence: int
    attempt: int
    crashes: int = 0
    first_failed_at: int = 0
    sent_at: int = 0
    crashes_before: int = 0
    rounds: Rounds = field(default=(), kw_only=True)
    # Whoever asks again for the same lease is not told again.
    stalled: bool = field(default=False, compare=False, kw_only=True)
    breaker_open: bool | None = field(default=None, compare=False, kw_only=True)

    def __hash__(self) -> int:
        return hash(self.owner)  # it tells leases apart, and the rest takes ten times as long

    def round_of(self, moment: int) -> int:
        """Return the highest round that the job has run in of the send at ``moment``."""
        return round_of(self.rounds, moment)


@dataclass(frozen=True, slots=True)
class Held:
    """The job is not free: it runs elsewhere, or it is not due. Ask again after ``wait``."""

    wait: timedelta
    state: JobState


@dataclass(frozen=True, slots=True)
class Suspect:
    """The job has taken down as many workers as ``alone_at`` says: ask again when no other such job runs beside it."""

    crashes: int


@dataclass(frozen=True, slots=True)
class Finished:
    """The job is done or dead, so this delivery has nothing left to do."""

    state: JobState


@dataclass(frozen=True, slots=True)
class Claim:
    """Ask for a job; the fields are those of ``JobStore.acquire``. Answered by a lease, or by why there is none."""

    job: JobKey
    owner: str
    sent_at: int
    job_round: int = 0
    attempts_before: int = 0
    alone_at: int = 0
    alone: bool = False
    due_at: int = 0
    delay: timedelta = timedelta()
    instead_of: str = ""
    ahead: bool = False
    breaker: str = ""


@dataclass(frozen=True, slots=True)
class Completed:
    """The job is done."""

    result: bytes


@dataclass(frozen=True, slots=True)
class Released:
    """The job is free, and due after ``delay``."""

    delay: timedelta = timedelta()
    counted: bool = False
    failure: str = ""
    waits_for: str = ""


@dataclass(frozen=True, slots=True)
class Buried:
    """The job is dead."""

    failure: str


@dataclass(frozen=True, slots=True)
class Record:
    """Say what became of a job. Answered by whether the lease was still its own."""

    lease: Lease
    end: Completed | Released | Buried


#: What a delivery is told that asks for its job.
Answer = Lease | Held | Suspect | Finished


@dataclass(frozen=True, slots=True)
class JobRecord:
    """All that is known of a job, for people and for status queries. Times are milliseconds since the epoch.

    ``waits_for`` says why a job waits that has used up no attempt, such as a breaker that is open. ``round``
    is how often its latest send was sent again from the dead-letter queue, and has run.
    """

    job: JobKey
    state: JobState
    attempt: int
    crashes: int
    fence: int
    started_at: int = 0
    finished_at: int = 0
    due_at: int = 0
    lease_until: int = 0
    percent: float = 0.0
    step: str = ""
    note: str = ""
    failure: str = ""
    result: bytes = b""
    waits_for: str = ""
    round: int = 0


@dataclass(frozen=True, slots=True)
class Process:
    """A worker process, as it describes itself with each renewal.

    Attributes:
        name: Random, and new at each start. It stands before the colon in the owners of its leases.
        service: Whose jobs it runs.
        host: Where, for people.
        pid: Its number there, for people.
        queues: What it takes from.
        generation: Of messages and records: processes of one service must agree in it (``GENERATION``).
        started_at: In milliseconds since the epoch, by its own clock.
        running: The jobs it has leases of, as ``actor id``; the first of many.
    """

    name: str
    service: str
    host: str
    pid: int
    queues: tuple[str, ...]
    generation: int
    started_at: int
    running: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """When a process was heard of last.

    Attributes:
        process: As it described itself then.
        beat_at: In milliseconds since the epoch, by the store's clock.
        is_alive: It has renewed its leases in time, and nobody has declared it dead.
    """

    process: Process
    beat_at: int
    is_alive: bool


def process_of(owner: str) -> tuple[str, int] | None:
    """Return the process of an owner and the owner's number; None if it names no process.

    >>> process_of("5f2c:17")
    ('5f2c', 17)
    """
    process, colon, number = owner.rpartition(":")
    return (process, int(number)) if colon and number.isdecimal() else None


class JobStore(Protocol):
    """Keeps one record per job and decides who may run it.

    Every method is one atomic transition, takes the store's own clock for expiry, may be repeated after a timeout with
    the same arguments, and raises ``StoreUnavailable`` when the store does not answer. Methods that take a lease
    return False, and change nothing, once another owner has been given a higher fence.

    The clock may jump. Back: a lease or a wait is over when it has lasted its whole length, counted from the first
    delivery that asks after the jump, so each jump costs at most that. Forward: leases that were not renewed after the
    jump are over before their time, and whoever asks then gets the job beside an owner that lives.

    The store may lose what it was told last, or everything: a record that is gone, or whose fence is lower than the
    lease's, is written again by ``renew``, ``release``, ``complete`` and ``bury``, unless it says that the job is done.
    Fences rise over such a loss too, once the clock is past the highest: at once, unless it went back.

    A lease ends by time, unless the end of its process is declared: then it ends at once.

    Implemented by ``jobkit.store.redis`` and ``jobkit.store.memory``; ``tests/contract/test_job_store*.py`` is what any
    further one has to pass.
    """

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
        """Ask for the right to run ``job`` for ``ttl``.

        Args:
            job: Which job.
            owner: Who asks. The same owner gets the same lease again, and for the whole of ``ttl``.
            ttl: For how long, unless it is renewed.
            sent_at: When the job was sent, or the one that led to it (``Execution.moment``), by its sender's clock. It
                tells a redelivery of a dead job from the same job sent again: a later ``sent_at`` starts it again. An
                earlier one is answered if it was seen before, or is older than the death by more than ``CLOCK_SKEW``. 0
                is a sender that did not say when.
            job_round: Of that send (``jobkit.rounds``). A higher one than the job has run in starts a dead job again.
                Any other is answered as ``sent_at`` says.
            attempts_before: What the message itself says of attempts made, should the record have been lost.
            alone_at: After this many crashes, no lease is given unless ``alone``; 0 is never.
            alone: Whether no other such job runs in this process.
            due_at: When a delayed job may begin first, by the sender's clock; 0 if it was not delayed. A delivery that
                comes earlier is told to wait, the first time that the job is asked for.
            delay: Limits that wait, as the sender's clock may be wrong.
            instead_of: An owner in the same process that has not let its job begin, and never will. Its lease is over:
                what it still says comes too late, and it is as if it had never been given.
            ahead: Whether there is no thread for the job yet. The first such lease that ends by time counts no crash.
            breaker: The breaker of the job's actor, ``<service>/<name>``. A lease says whether it is open. The breaker
                stays as it is, and the job is given in any case.
        """

    def acquire_all(self, claims: Sequence[Claim], ttl: timedelta) -> list[Answer | JobkitError]:
        """Ask for several jobs in one round trip; each gets its answer, or the error that its own record met."""

    def end_all(self, records: Sequence[Record]) -> list[bool | JobkitError]:
        """Complete, bury and release several jobs in one round trip, as each record says; answers as there."""

    def renew(self, leases: Sequence[Lease], ttl: timedelta, process: Process | None = None) -> list[bool]:
        """Extend leases, all in one round trip; False where another owner holds a higher fence.

        Args:
            leases: None of them is a heartbeat alone.
            ttl: From now on.
            process: Whose leases they are; what it says of itself is kept as its heartbeat.
        """

    def declare_dead(self, process: str, service: str, begun: Collection[int]) -> None:
        """End all leases of a process whose end is certain, those that it has asked for but never got among them.

        Each of its jobs goes to whoever asks next. Where the job had begun, that counts a crash; else it is as if the
        lease had never been given. This is remembered for as long as a record.

        Args:
            process: The name that its owners begin with.
            service: Whose jobs it ran.
            begun: The numbers of the owners whose job had begun.
        """

    def processes(self, service: str) -> list[Heartbeat]:
        """The worker processes of a service that were heard of in the last day, dead ones among them."""

    def complete(self, lease: Lease, result: bytes) -> bool:
        """Record that the job is done, with its result."""

    def release(self, lease: Lease, *, delay: timedelta, counted: bool, failure: str = "", waits_for: str = "") -> bool:
        """Free the job to run again after ``delay``.

        Args:
            lease: Whose job.
            delay: Until it is due.
            counted: Whether this run used up an attempt.
            failure: What the run failed with.
            waits_for: What the job waits for, for people.
        """

    def bury(self, lease: Lease, *, failure: str) -> bool:
        """Record that the job was dead-lettered."""

    def report(self, lease: Lease, *, percent: float, step: str, note: str) -> bool:
        """Record how far the running job is; False also if its record was lost, until the next renewal."""

    def remember(self, lease: Lease, name: str, value: bytes) -> bytes | None:
        """Return what a run of the job has stored first under ``name``, which is ``value`` if none has.

        None if the lease was lost, or its record, until the next renewal. What is stored lasts as long as the record.
        """

    def forget(self, lease: Lease, name: str) -> bool:
        """Remove what was remembered under ``name``; False if the lease or its record was lost."""

    def checkpoint(self, lease: Lease) -> bool:
        """Let attempts and crashes count from here on: the run that holds ``lease`` is the first.

        False if the lease or its record was lost. What messages say of attempts does not count from then on.
        """

    def record(self, job: JobKey) -> JobRecord | None:
        """What is known of a job; None once its record has expired or if there never was one."""

    def ping(self) -> None:
        """Return if the store answers."""

    def close(self) -> None:
        """Close the connections."""
