"""What must hold at each start of a run, and after every walk."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from cases import Case
from simulated_queue import Broker
from simulated_workers import ATTEMPTS, MAX_CRASHES, TTL, Process, Walker, Way

from jobkit.execution import Execution
from jobkit.leases import RETRY_RENEWAL
from jobkit.store.base import JobKey, JobRecord, JobState, Lease
from jobkit.store.memory import MemoryStore


class Finding(AssertionError):
    """Something that must not happen has happened."""


@dataclass
class Laws:
    """Keeps count of what happens, and raises ``Finding``.

    Attributes:
        case: What is sent.
        store: Has the records.
        broker: Has the dead letters.
        accepted: Jobs whose sends were confirmed.
        faults: What has gone wrong.
        runs: Runs that have begun, by job.
        effects: Runs that came to their end.
        sent_again: Jobs whose dead letters were sent again, each with its round.
        restarts: How often a dead job has begun again.
        lapses: Faults by which a lease may end by time, and not by the declaration that its process is dead.
        deaths: Deliveries that a dying or frozen process has taken along.
        crashes: Those of them whose run had begun when the process died.
        leases_cut_short: Whether the store's clock went forward: a window that guarantees.md names.
        back_at: When the store came back from its last outage.
    """

    case: Case
    store: MemoryStore
    broker: Broker
    accepted: list[str] = field(default_factory=list)
    faults: int = 0
    runs: Counter[str] = field(default_factory=Counter)
    effects: Counter[str] = field(default_factory=Counter)
    sent_again: set[tuple[str, int]] = field(default_factory=set)
    restarts: Counter[str] = field(default_factory=Counter)
    lapses: int = 0
    deaths: Counter[str] = field(default_factory=Counter)
    crashes: Counter[str] = field(default_factory=Counter)
    leases_cut_short: bool = False
    back_at: float = -math.inf
    _held_until: dict[tuple[str, int], float] = field(default_factory=dict)  # by job and fence

    def note_lease(self, lease: Lease, now: float) -> None:
        """An owner was told that it has the job, or still has it."""
        self._held_until[lease.job.id, lease.fence] = now + TTL

    def owner_of(self, job: JobKey, processes: Sequence[Process], now: float) -> Way | None:
        """Who has the job under a lease that holds: it is about to run, runs, or waits for its record."""
        row = self.store._row(job)
        if row is None or row.record.state is not JobState.RUNNING:
            return None
        for way in (way for process in processes for way in process.ways):
            if way.execution.lease is not None and row.is_of(way.execution.lease) and self._holds(way, now):
                return way
        return None

    def check_lease(self, lease: Lease, walker: Walker, owner: Way | None, now: float) -> None:
        """Nothing is given that others have under a lease that holds, nor to a process that cannot renew it."""
        name, process = lease.job.id, walker.process
        # Windows that guarantees.md names: it was asked for before the outage, or its process has begun just after it.
        is_new = self.back_at <= process.began_at and now <= self.back_at + RETRY_RENEWAL
        if walker.asked_at < self.back_at or is_new:
            self.note_last_owner(lease, now)
        elif owner is not None and owner.execution.lease != lease and not self.leases_cut_short:
            raise Finding(f"{name} is given away, though process {owner.process.number} has it")
        if walker.asked_at > process.heard_at + TTL:
            raise Finding(f"{name} is taken by process {process.number}, which could not beat for a lease")
        self.note_lease(lease, now)

    def note_last_owner(self, lease: Lease, now: float) -> None:
        """Leases of the job that were given before this one hold no more."""
        for name, fence in self._held_until:
            if name == lease.job.id and fence < lease.fence:
                self._held_until[name, fence] = now

    def note_leases(self, process: Process, now: float) -> None:
        """It has renewed its leases. Or the store is back, and gives them to nobody before they could be renewed."""
        for lease in _leases_of(process):
            row = self.store._row(lease.job)
            if row is not None and row.is_of(lease) and row.record.state is JobState.RUNNING:
                self.note_lease(lease, now)

    def note_silence(self, process: Process, now: float) -> None:
        """It renews nothing: from here on its leases hold for as long as the store says."""
        for lease in _leases_of(process):
            row = self.store._row(lease.job)
            left = (row.until - self.store._now()) / 1000 if row is not None and row.is_of(lease) else 0.0
            key = lease.job.id, lease.fence
            self._held_until[key] = min(self._held_until.get(key, 0.0), now + left)

    def is_dead(self, job: JobKey) -> bool:
        """Whether the record says so."""
        row = self.store._row(job)
        return row is not None and row.record.state is JobState.DEAD

    def check_restart(self, job: JobKey) -> None:
        """A dead job begins again once for each round in which it was sent again."""
        self.restarts[job.id] += 1
        if self.restarts[job.id] > sum(name == job.id for name, _ in self.sent_again):
            raise Finding(f"{job.id} was dead, and began again {self.restarts[job.id]} times")

    def note_death(self, execution: Execution, *, had_begun: bool) -> None:
        """A process has died, or was frozen, with a delivery."""
        self.deaths[execution.job.id] += execution.lease is not None or isinstance(execution.answer, Lease)
        self.crashes[execution.job.id] += had_begun

    def check_late_end(self, lease: Lease, processes: Sequence[Process]) -> None:
        """An end that comes late frees no job that runs."""
        for way in (way for process in processes for way in process.ways):
            if way.running is not None and way.execution.lease == lease and self._is_free(lease):
                raise Finding(f"{lease.job.id} was freed by a release that came late, and runs")

    def _is_free(self, lease: Lease) -> bool:
        row = self.store._row(lease.job)
        return row is not None and row.record.fence == lease.fence and row.record.state is JobState.WAITING

    def check_start(self, way: Way, processes: Sequence[Process], now: float) -> None:
        """No run begins without a lease, after the job is done, or beside an owner whose lease holds."""
        name, lease = way.execution.job.id, way.execution.lease
        if lease is None:
            raise Finding(f"{name} runs without a lease")
        if self._held_until.get((name, lease.fence), now + TTL) <= now:
            return  # it was frozen, and has not yet heard that its lease is over: a window that guarantees.md names
        row = self.store._row(way.execution.job)
        if row is not None and row.record.state is JobState.DONE and not self.leases_cut_short:
            raise Finding(f"{name} runs though it is done")
        for process in processes:
            for other in process.ways:
                if other is not way and not self.leases_cut_short and self._runs_with_a_lease(other, name, now):
                    raise Finding(f"{name} runs twice at a time, and both leases hold")
        self._held_until.setdefault((name, lease.fence), now + TTL)

    def _runs_with_a_lease(self, way: Way, name: str, now: float) -> bool:
        return way.running is not None and way.execution.job.id == name and self._holds(way, now)

    def _holds(self, way: Way, now: float) -> bool:
        lease, name = way.execution.lease, way.execution.job.id
        if lease is None:
            return False
        return self._held_until.get((name, lease.fence), 0.0) > now + 0.001 and now >= way.process.frozen_until

    def check_process(self, process: Process) -> None:
        """Nothing that an idle process has taken is kept."""
        if process.connection.taken:
            raise Finding(f"process {process.number} has not settled {process.connection.taken[0].message_id}")
        if process.keeper._kept:
            raise Finding(f"process {process.number} renews a lease for ever")
        if process.idempotency._last_chance.locked():
            raise Finding(f"process {process.number} never gave back the turn of a last chance")

    def check_jobs(self) -> None:
        """Every job has come to an end that is right, and was run and counted as documented."""
        for name in dict.fromkeys(self.accepted):  # in their order, so that a finding is the same each time
            record = self.store.record(JobKey("work", "work", name))
            self._check_end(name, record)
            assert record is not None
            self._check_counts(name, record)

    def _check_end(self, name: str, record: JobRecord | None) -> None:
        state = record.state if record else None
        may_die = JobState.DEAD in self.case.ends.get(name, ())
        if state not in {JobState.DONE, JobState.DEAD}:
            raise Finding(f"{name} is lost: its record says {state or 'nothing'}")
        if state is JobState.DONE and may_die:
            raise Finding(f"{name} is done, though it never ended well")
        if state is JobState.DONE:
            return
        if not any(message.message_id == name for message, _ in self.broker.dead):
            raise Finding(f"{name} is dead, and there is no dead letter")
        if not may_die and self.deaths[name] + self.lapses < MAX_CRASHES - 1:  # each uses up an attempt, too
            raise Finding(f"{name} died, though nothing is wrong with it")

    def _check_counts(self, name: str, record: JobRecord) -> None:
        runs, deaths, script = self.runs[name], self.deaths[name], self.case.scripts[name]
        lost = self.faults + deaths
        # Each fault, and each process that dies with the job, may cost one more: the window between run and record.
        if self.effects[name] > 1 + lost:
            raise Finding(f"{name} was done {self.effects[name]} times")
        usual = ATTEMPTS if script[-1] == "fail" else len(script)
        allowed = (ATTEMPTS + MAX_CRASHES + lost if lost else usual) + self.restarts[name]
        if runs > allowed:
            raise Finding(f"{name} ran {runs} times, and {allowed} were allowed")
        if record.crashes > self.crashes[name] + self.lapses:
            raise Finding(f"{name} counts {record.crashes} crashes, and {self.crashes[name]} processes died of it")


def _leases_of(process: Process) -> list[Lease]:
    return [way.execution.lease for way in process.ways if way.execution.lease is not None]
