"""``JobStore`` as a state machine: in whatever order things happen, it answers as the model does.

Hypothesis plays what happens to one job: deliveries that ask for it, owners that come late or never again, the store's
clock, and a store that loses its last second. An owner that dies needs no rule: it is one that does nothing more.
"""

import itertools
from collections.abc import Sequence
from datetime import timedelta
from typing import NotRequired, TypedDict, Unpack

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from job_model import Answer, JobModel
from staged_store import StagedStore, staged

from jobkit.store.base import Held, JobKey, JobState, Lease
from jobkit.time import milliseconds

START = 1_700_000_000_000  #: Some day, in milliseconds since the epoch.

#: The same examples every time: what a machine finds on a lucky day belongs into a test with a name.
FIXED = settings(derandomize=True, max_examples=250, stateful_step_count=40, deadline=None, database=None)

_ids = itertools.count()

owners = st.sampled_from(["a", "p:1", "p:2", "q:1"])  # few, so that the same one asks again
ttls = st.sampled_from([1_000, 5_000, 15_000])
delays = st.sampled_from([0, 500, 2_000, 60_000])
failures = st.sampled_from(["", "no route"])
times = st.integers(1, 2)  # a call whose answer was lost is made again
sends = st.sampled_from([0, 1, START - 1, START, START + 1])  # no time, and one from long ago
rounds = st.sampled_from([0, 0, 1, 2])
jumps = st.sampled_from([1, 900, 4_000, 14_999, 3_600_000, 3 * 86_400_000])


class Asked(TypedDict):
    """What a delivery says of itself, beside its owner and for how long it asks."""

    sent_at: int
    attempts_before: NotRequired[int]
    job_round: NotRequired[int]
    alone_at: NotRequired[int]
    alone: NotRequired[bool]
    instead_of: NotRequired[str]
    ahead: NotRequired[bool]


class LeaseMachine(RuleBasedStateMachine):
    leases = Bundle("leases")  #: All that were ever given, so that most of them come late.

    def __init__(self, stage: StagedStore) -> None:
        super().__init__()
        self.stage, self.store = stage, stage.store
        self.job = JobKey("email", "send_email", f"job-{next(_ids)}")
        self.model = JobModel(START)
        self.replica: object = None
        self.stage.set_clock(START)

    # ---- deliveries ask

    @rule(
        target=leases,
        owner=owners,
        ttl=ttls,
        sent_at=sends,
        attempts_before=st.integers(0, 3),
        job_round=rounds,
        alone_at=st.integers(0, 2),
        alone=st.booleans(),
        ahead=st.booleans(),
        takes_over=st.booleans(),
    )
    def a_delivery_asks(self, owner: str, ttl: int, takes_over: bool, **asked: Unpack[Asked]) -> object:
        if takes_over:  # from whoever has the job, in the same process, and has not let it begin
            asked["instead_of"] = self.model.known.lease.owner if self.model.known else "nobody"
        answer = self.ask(owner, ttl, **asked)
        return answer if isinstance(answer, Lease) else multiple()

    @rule(target=leases, ttl=ttls)
    def a_delivery_waits_as_it_is_told_and_gets_the_job(self, ttl: int) -> object:
        answer = self.ask("patient", ttl, sent_at=START)
        if isinstance(answer, Held):
            self.time_passes(milliseconds(answer.wait))
            answer = self.ask("patient", ttl, sent_at=START)
            assert not isinstance(answer, Held), "stuck"
        return answer if isinstance(answer, Lease) else multiple()

    def ask(self, owner: str, ttl: int, **asked: Unpack[Asked]) -> Answer:
        process, colon, number = owner.partition(":")
        if colon:  # another for each job, as a process that was declared dead stays dead
            owner = f"{process}-of-{self.job.id}:{number}"
        answer = self.store.acquire(self.job, owner, ttl=timedelta(milliseconds=ttl), **asked)
        self.model.check(answer, owner, ttl, **asked)
        return answer

    # ---- owners come, in time, late, or twice

    @rule(those=st.lists(leases, min_size=1, max_size=3), ttl=ttls)
    def renew(self, those: Sequence[Lease], ttl: int) -> None:
        answers = self.store.renew(those, timedelta(milliseconds=ttl))
        assert answers == [self.model.renew(lease, ttl) for lease in those]

    @rule(lease=leases, times=times, has_result=st.booleans())
    def complete(self, lease: Lease, times: int, has_result: bool) -> None:
        result = f"{lease.fence}".encode() if has_result else b""
        due = self.model.finish(lease, JobState.DONE, result=result)
        assert [self.store.complete(lease, result) for _ in range(times)] == [due] * times

    @rule(lease=leases, failure=failures, times=times)
    def bury(self, lease: Lease, failure: str, times: int) -> None:
        due = self.model.finish(lease, JobState.DEAD, failure=failure)
        assert [self.store.bury(lease, failure=failure) for _ in range(times)] == [due] * times

    @rule(lease=leases, delay=delays, counted=st.booleans(), failure=failures, times=times)
    def release(self, lease: Lease, delay: int, counted: bool, failure: str, times: int) -> None:
        due = self.model.release(lease, delay=delay, counted=counted, failure=failure)
        wait = timedelta(milliseconds=delay)
        answers = [self.store.release(lease, delay=wait, counted=counted, failure=failure) for _ in range(times)]
        assert answers == [due] * times

    @rule(lease=leases)
    def report(self, lease: Lease) -> None:
        assert self.store.report(lease, percent=50, step="half", note="") is self.model.report(lease)

    @rule(lease=leases, times=times)
    def checkpoint(self, lease: Lease, times: int) -> None:
        due = self.model.checkpoint(lease)
        assert [self.store.checkpoint(lease) for _ in range(times)] == [due] * times

    @precondition(lambda self: self.model.known and self.model.known.state is JobState.RUNNING)
    @rule(failure=failures, delay=delays, dies=st.booleans())
    def the_owner_fails(self, failure: str, delay: int, dies: bool) -> None:
        """The one that has the job, not any that ever had it: so that jobs get old."""
        assert self.model.known
        if dies:
            self.bury(self.model.known.lease, failure, times=1)
        else:
            self.release(self.model.known.lease, delay, counted=True, failure=failure, times=1)

    # ---- processes end

    @rule(process=st.sampled_from(["p", "q"]), begun=st.frozensets(st.integers(1, 2)))
    def a_process_is_declared_dead(self, process: str, begun: frozenset[int]) -> None:
        """What it has asked for may still arrive."""
        name = f"{process}-of-{self.job.id}"
        self.store.declare_dead(name, self.job.service, begun)
        self.model.declare_dead(name, begun)

    # ---- time, clocks, and losses

    @precondition(lambda self: self.model.known and self.model.known.state is JobState.DONE)
    @rule()
    def the_result_is_no_longer_kept(self) -> None:
        assert self.model.known
        self.model.known.result = b""
        self.stage.let_result_expire(self.job)

    @rule(by=st.integers(1, 20_000))
    def time_passes(self, by: int) -> None:
        self.model.time_passes(by)
        self.stage.set_clock(self.model.clock)

    @precondition(lambda self: self.model.known and self.model.known.latest > self.model.elapsed)
    @rule(nearly=st.booleans())
    def the_time_comes(self, nearly: bool) -> None:
        """The lease or the wait is over, or one millisecond is missing."""
        assert self.model.known
        self.time_passes(self.model.known.latest - self.model.elapsed - nearly)

    @rule(by=st.one_of(jumps, jumps.map(lambda by: -by)))
    def the_clock_jumps(self, by: int) -> None:
        self.model.clock_jumps(by)
        self.stage.set_clock(self.model.clock)

    @rule()
    def the_replica_catches_up(self) -> None:
        self.model.replicate()
        self.replica = self.stage.copy_of(self.job)

    @rule()
    def the_store_falls_back_to_its_replica(self) -> None:
        self.model.fall_back()
        self.stage.put_back(self.job, self.replica)

    @rule()
    def the_record_is_lost(self) -> None:
        self.model.lose()
        self.stage.put_back(self.job, None)

    # ---- what holds at any time

    @invariant()
    def no_two_owners_hold_a_valid_lease(self) -> None:
        assert sum(until > self.model.elapsed for until in self.model.told.values()) <= 1

    @invariant()
    def the_record_says_what_has_happened(self) -> None:
        record, known = self.store.record(self.job), self.model.known
        if record is None or known is None:
            assert record is None
            assert known is None
            return
        assert (record.state, record.attempt, record.crashes) == (known.state, known.attempt, known.crashes)
        assert (record.fence, record.result, record.failure) == (known.lease.fence, known.result, known.failure)
        assert self.stage.expires(self.job)


@pytest.mark.parametrize("kind", ["memory", "redis"])
def test_no_order_of_events_breaks_a_promise(kind: str, redis_url: str) -> None:
    with staged(kind, redis_url) as stage:
        run_state_machine_as_test(
            lambda: LeaseMachine(stage),  # type: ignore[arg-type]  # any function that makes one will do
            settings=FIXED,
        )
