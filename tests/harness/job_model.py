"""What a job store has to answer, in plain Python: the promises of ``JobStore`` for one job.

The model does not reckon as the stores do. They go by a clock that may jump; it knows the time that really passes, and
between which two moments of it the job has to become free.
"""

from dataclasses import dataclass, field, replace

from jobkit.store.base import CLOCK_SKEW, DUE_SLACK, Finished, Held, JobState, Lease, Suspect, process_of
from jobkit.time import milliseconds

SLACK, SKEW = milliseconds(DUE_SLACK), milliseconds(CLOCK_SKEW)

Answer = Lease | Held | Suspect | Finished


@dataclass
class Known:
    """What the store has to know of the job. Moments are milliseconds of the time that really passes."""

    lease: Lease  # the last one under which it was changed
    attempt: int
    crashes: int
    first_failed_at: int
    state: JobState = JobState.RUNNING
    result: bytes = b""
    failure: str = ""
    span: int = 0  # for how long it was leased, or made to wait
    earliest: int = 0  # until then nobody else gets it
    latest: int = 0  # from then on whoever asks gets it
    seen: tuple[int, ...] = ()  # the sends that were delivered
    rounds: dict[int, int] = field(default_factory=dict)  # the highest that it has run in, by send
    died_at: int = 0  # by the store's clock
    crashes_before: int | None = None  # there once the job has made a checkpoint
    ahead: bool = False  # there was no thread for the job when the lease was given
    spared: bool = False  # such a lease has ended by time once

    @classmethod
    def of(cls, lease: Lease, failure: str = "") -> "Known":
        known = cls(lease, lease.attempt, lease.crashes, lease.first_failed_at, failure=failure, seen=(lease.sent_at,))
        known.rounds = dict(lease.rounds)
        return known

    def see(self, sent_at: int) -> None:
        if sent_at not in self.seen:
            self.seen = (*self.seen, sent_at)

    def answers(self, sent_at: int, job_round: int) -> bool:
        """Whether the job's death answers this send: one that came later starts it again, as does a higher round."""
        if job_round > self.rounds.get(sent_at, 0):
            return False
        duplicate = sent_at in self.seen or 0 < sent_at < self.died_at - SKEW
        return sent_at == self.lease.sent_at or (sent_at < self.lease.sent_at and duplicate)

    def hold(self, now: int, span: int) -> None:
        self.span, self.earliest, self.latest = span, now + span, now + span


def name(lease: Lease) -> tuple[int, str]:
    return lease.fence, lease.owner


class JobModel:
    """One job, from its first delivery on.

    Attributes:
        elapsed: The time that has really passed, in milliseconds.
        clock: What the store's clock shows.
        known: What the store knows of the job; None if it has lost it.
        told: Until when each owner may believe that the job is its own.
        highest: The highest fence that was ever given out.
        lossy: Whether the store has ever lost something.
        dead: The processes that were declared dead, with the numbers of the owners whose job had begun.
    """

    def __init__(self, clock: int) -> None:
        self.elapsed, self.clock = 0, clock
        self.known: Known | None = None
        self.replica: Known | None = None
        self.told: dict[tuple[int, str], int] = {}
        self.highest, self.lossy = 0, False
        self.dead: dict[str, frozenset[int]] = {}

    # ---- what deliveries are answered

    def check(
        self,
        answer: Answer,
        owner: str,
        ttl: int,
        *,
        sent_at: int = 1,
        attempts_before: int = 0,
        job_round: int = 0,
        alone_at: int = 0,
        alone: bool = False,
        instead_of: str = "",
        ahead: bool = False,
    ) -> None:
        """Fail unless this may be answered to the delivery."""
        known = self.known
        if known and known.state is JobState.DONE:
            assert answer == Finished(JobState.DONE)
            return
        if known and known.state is JobState.DEAD and known.answers(sent_at, job_round):
            assert answer == Finished(JobState.DEAD)
            return
        if known and known.state is JobState.RUNNING and known.lease.owner == owner:
            assert answer == known.lease
            self._lend(known, ttl)
            known.ahead &= ahead
            return
        begun = self._begun(known)
        if known and known.state is JobState.RUNNING and known.lease.owner == instead_of:
            begun = False
            self.told.pop(name(known.lease), None)  # it knows that its lease is over
        if known and known.state is not JobState.DEAD:
            known.see(sent_at)
            if begun is None and self._is_held(known, answer):
                return

        attempt, crashes, first_failed_at, failure, spared = 0, 0, 0, "", False
        crashes_before: int | None = None
        if known and known.state is not JobState.DEAD:
            crashes_before = known.crashes_before
            is_over = known.state is JobState.RUNNING
            counts = is_over and (begun is True or (begun is None and not known.ahead))
            spared = known.spared or (is_over and begun is None and known.ahead)
            attempt, first_failed_at = known.attempt - (is_over and not counts), known.first_failed_at
            crashes = known.crashes + counts
            failure = known.failure if first_failed_at else ""
        if crashes and crashes == alone_at and not alone:
            assert answer == Suspect(crashes)
            return

        assert isinstance(answer, Lease), answer
        attempt = max(attempt, 0 if crashes_before is not None else attempts_before) + 1
        self._check_fence(answer.fence)
        latest = max(known.lease.sent_at, sent_at) if known else sent_at
        before = crashes_before or 0
        rounds = dict(known.rounds) if known else {}
        rounds[sent_at] = max(job_round, rounds.get(sent_at, 0))
        due = Lease(answer.job, owner, answer.fence, attempt, crashes, first_failed_at, latest, before)
        assert replace(answer, rounds=()) == due
        assert dict(answer.rounds) == {sent: number for sent, number in rounds.items() if number}
        seen = known.seen if known else ()
        self.known = Known.of(answer, failure)
        self.known.crashes_before = crashes_before
        self.known.ahead, self.known.spared = ahead and not spared, spared
        self.known.seen = seen
        self.known.see(sent_at)
        self._lend(self.known, ttl)

    def _is_held(self, known: Known, answer: Answer) -> bool:
        slack = SLACK if known.state is JobState.WAITING else 0
        # After the clock went back, nobody knows how much of the time is left; but never more than there was at first.
        known.latest = min(known.latest, self.elapsed + known.span)
        if not isinstance(answer, Held):
            assert self.elapsed >= known.earliest, "two owners"
            return False
        free_at = self.elapsed + milliseconds(answer.wait) - slack
        assert answer.state is known.state
        assert max(known.earliest, self.elapsed + 1) <= free_at <= known.latest, "stuck"
        known.latest = free_at
        return True

    def _check_fence(self, fence: int) -> None:
        assert fence >= self.clock
        assert not self.known or fence > self.known.lease.fence
        # What the store has lost, it can exceed only by its clock.
        assert fence > self.highest or (self.lossy and self.clock <= self.highest)
        self.highest = max(fence, self.highest)

    def _begun(self, known: Known | None) -> bool | None:
        """Whether the job had begun when its owner's process was declared dead; None if that has not happened."""
        owner = process_of(known.lease.owner) if known and known.state is JobState.RUNNING else None
        return owner[1] in self.dead[owner[0]] if owner and owner[0] in self.dead else None

    def _lend(self, known: Known, ttl: int) -> None:
        known.hold(self.elapsed, ttl)
        if not self._is_dead(known.lease.owner):
            self.told[name(known.lease)] = self.elapsed + ttl

    # ---- processes end

    def declare_dead(self, process: str, begun: frozenset[int]) -> None:
        self.dead[process] = begun
        self.told = {owner: until for owner, until in self.told.items() if not self._is_dead(owner[1])}

    def _is_dead(self, owner: str) -> bool:
        process = process_of(owner)
        return process is not None and process[0] in self.dead

    # ---- what owners are answered, in time, late, or again

    def renew(self, lease: Lease, ttl: int) -> bool:
        known = self._record_of(lease)
        if known is None or known.state is not JobState.RUNNING:
            return False
        self._lend(known, ttl)
        return True

    def finish(self, lease: Lease, state: JobState, *, result: bytes = b"", failure: str = "") -> bool:
        known = self._record_of(lease)
        self.told.pop(name(lease), None)
        if known and known.state in {JobState.RUNNING, JobState.WAITING}:
            known.state, known.result, known.failure, known.died_at = state, result, failure, self.clock
        return known is not None and known.state is state

    def release(self, lease: Lease, *, delay: int, counted: bool, failure: str) -> bool:
        known = self._record_of(lease)
        self.told.pop(name(lease), None)
        if known and known.state is JobState.RUNNING:
            known.state = JobState.WAITING
            known.attempt -= not counted
            known.failure = failure or known.failure
            known.first_failed_at = known.first_failed_at or (self.clock if failure else 0)
            known.hold(self.elapsed, delay - SLACK)
        return known is not None

    def report(self, lease: Lease) -> bool:
        known = self.known
        return known is not None and known.state is JobState.RUNNING and name(known.lease) == name(lease)

    def checkpoint(self, lease: Lease) -> bool:
        known = self.known
        if known is None or not self.report(lease):
            return False
        known.crashes_before = (known.crashes_before or 0) + known.crashes
        known.attempt, known.crashes, known.ahead = 1, 0, False
        known.lease = replace(known.lease, attempt=1, crashes=0, crashes_before=known.crashes_before)
        return True

    def _record_of(self, lease: Lease) -> Known | None:
        """The record, if it is this lease's: the highest fence has it, also if the store has lost it."""
        known = self.known
        if known is None or (known.lease.fence < lease.fence and known.state is not JobState.DONE):
            assert self.lossy, "only a loss leaves no record, or a lower fence"
            self.known = known = Known.of(replace(lease, crashes_before=0))
            self.told = {}  # whoever was given the job below that fence, by a store that had lost it, loses it
        if name(known.lease) == name(lease):
            return known
        self.told.pop(name(lease), None)
        return None

    # ---- time, clocks, and losses

    def time_passes(self, by: int) -> None:
        self.elapsed += by
        self.clock += by

    def clock_jumps(self, by: int) -> None:
        self.clock += by
        for known in filter(None, (self.known, self.replica)):
            known.latest -= by
            known.earliest -= max(by, 0)
        if by > 0:  # for the store, that time has passed: nobody can rely on the lease that it was told of
            self.told = {owner: until - by for owner, until in self.told.items()}

    def replicate(self) -> None:
        self.replica = self.known and replace(self.known)

    def fall_back(self) -> None:
        self.lose()
        self.known = self.replica and replace(self.replica)

    def lose(self) -> None:
        self.known, self.told, self.lossy = None, {}, True
