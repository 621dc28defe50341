"""Leases are renewed while jobs run; one that is lost interrupts its job."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta

import pytest

from jobkit import leases
from jobkit.errors import LeaseLost, StoreUnavailable
from jobkit.interrupts import Interrupts
from jobkit.leases import LeaseKeeper
from jobkit.process import Begun, Identity, give, shared_memory
from jobkit.store.base import GENERATION, Heartbeat, Held, JobKey, Lease, Process, process_of
from jobkit.store.memory import MemoryStore

TTL = timedelta(milliseconds=30)  # the keeper renews every 10 ms
JOB = JobKey("email", "send_email", "job-1")


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class WatchedStore(MemoryStore):
    """Counts renewals, and is away while told to be."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock=clock)
        self.renewals = 0
        self.calls = 0
        self.away = False

    def ping(self) -> None:
        if self.away:
            raise StoreUnavailable("the store is away")
        super().ping()

    def renew(self, leases: Sequence[Lease], ttl: timedelta, process: Process | None = None) -> list[bool]:
        self.calls += 1
        if self.away:
            raise StoreUnavailable("the store is away")
        answer = super().renew(leases, ttl, process)
        self.renewals += 1
        return answer


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.002)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> WatchedStore:
    return WatchedStore(clock)


@pytest.fixture
def interrupts() -> Interrupts:
    return Interrupts()


def describe(identity: Identity) -> Process:
    return Process(identity.name, "email", "host-a", 17, ("email",), GENERATION, identity.started_at)


@pytest.fixture
def keeper(store: WatchedStore, interrupts: Interrupts) -> Iterator[LeaseKeeper]:
    built = LeaseKeeper(store, interrupts, TTL, describe)
    built.start()
    yield built
    built.stop()


def take(store: WatchedStore, owner: str = "a", job: JobKey = JOB) -> Lease:
    lease = store.acquire(job, owner, ttl=TTL, sent_at=1)
    assert isinstance(lease, Lease)
    return lease


def renewed(store: WatchedStore) -> None:
    after = store.renewals + 2  # the one that may be under way has seen the old state
    wait_until(lambda: store.renewals >= after)


def test_a_kept_lease_outlives_its_first_term(store: WatchedStore, keeper: LeaseKeeper, clock: Clock) -> None:
    keeper.keep(take(store), threading.get_ident())
    for _ in range(3):
        clock.now += 0.02
        renewed(store)
    assert isinstance(store.acquire(JOB, "b", ttl=TTL, sent_at=1), Held)


def test_a_forgotten_lease_ends_by_itself(store: WatchedStore, keeper: LeaseKeeper, clock: Clock) -> None:
    lease = take(store)
    keeper.keep(lease, threading.get_ident())
    renewed(store)
    keeper.forget(lease)
    renewed(store)
    clock.now += 0.031
    assert take(store, "b").crashes == 1


def test_all_leases_of_a_process_are_renewed_in_one_call(store: WatchedStore, keeper: LeaseKeeper) -> None:
    for number in range(20):
        keeper.keep(take(store, job=JobKey("email", "send_email", str(number))), threading.get_ident())
    before, begun = store.calls, time.monotonic()
    renewed(store)
    assert store.calls - before <= 3 + (time.monotonic() - begun) / 0.01


def test_a_job_whose_lease_went_to_another_worker_is_interrupted(
    store: WatchedStore, keeper: LeaseKeeper, clock: Clock, interrupts: Interrupts, caplog: pytest.LogCaptureFixture
) -> None:
    lease = take(store)
    store.away = True  # as if this process had been cut off for longer than a term
    clock.now += 1
    assert take(store, "b").fence > lease.fence

    def job() -> None:
        keeper.keep(lease, threading.get_ident())
        store.away = False
        wait_until(lambda: False)

    with pytest.raises(LeaseLost):
        interrupts.run(job, limit=60)
    assert any("job-1 has gone to another worker" in record.getMessage() for record in caplog.records)
    keeper.forget(lease)


def test_an_outage_of_the_store_is_survived_and_said(
    store: WatchedStore, keeper: LeaseKeeper, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    keeper.keep(take(store), threading.get_ident())
    renewed(store)
    store.away = True
    calls = store.calls + 2
    wait_until(lambda: store.calls >= calls)
    store.away = False
    renewed(store)
    clock.now += 0.02
    assert isinstance(store.acquire(JOB, "b", ttl=TTL, sent_at=1), Held)
    assert any("the store is away" in record.getMessage() for record in caplog.records)


def test_a_job_that_is_being_recorded_raises_no_alarm(
    store: WatchedStore, keeper: LeaseKeeper, caplog: pytest.LogCaptureFixture
) -> None:
    lease = take(store)
    keeper.keep(lease, threading.get_ident())
    renewed(store)
    keeper.run_has_ended(lease)
    assert store.complete(lease, b"")
    renewed(store)
    assert not caplog.records


@pytest.mark.parametrize(("head_start", "remembered"), [(1_000.0, True), (0.0, False)])
def test_an_outage_is_noticed_without_a_job_and_remembered_for_the_head_start_of_owners(
    store: WatchedStore, keeper: LeaseKeeper, monkeypatch: pytest.MonkeyPatch, head_start: float, remembered: bool
) -> None:
    monkeypatch.setattr(leases, "HEAD_START", head_start)
    monkeypatch.setattr(keeper, "_clock", lambda: 0.0)  # or a pause of a busy machine is taken for a frozen process
    keeper.start()
    renewed(store)
    assert not keeper.store_was_away()
    store.away = True
    wait_until(keeper.store_was_away)
    store.away = False
    renewed(store)
    assert keeper.store_was_away() is remembered


def test_a_lease_that_is_to_lapse_is_renewed_until_the_process_ends_and_not_handed_back(
    store: WatchedStore, keeper: LeaseKeeper, clock: Clock
) -> None:
    stuck, other = take(store), take(store, job=JobKey("email", "send_email", "job-2"))
    keeper.keep(stuck, threading.get_ident())
    keeper.keep(other, threading.get_ident())
    keeper.let_lapse(stuck)
    assert keeper.stop() == [other]
    keeper.forget(other)
    for _ in range(3):
        clock.now += 0.02
        renewed(store)
    assert isinstance(store.acquire(JOB, "b", ttl=TTL, sent_at=1), Held), "nobody may run it beside this process"
    keeper.forget(stuck)
    renewed(store)
    clock.now += 0.031
    assert take(store, "b").crashes == 1


# ---- the process


def heartbeat(store: WatchedStore) -> Heartbeat:
    (beat,) = store.processes("email")
    return beat


def test_a_process_beats_from_its_start_on_and_names_its_jobs(store: WatchedStore, keeper: LeaseKeeper) -> None:
    renewed(store)
    assert heartbeat(store).process.running == ()
    assert process_of(keeper.owner()) == (heartbeat(store).process.name, 1)
    keeper.keep(take(store, keeper.owner()), threading.get_ident())
    renewed(store)
    assert heartbeat(store).process.running == ("send_email job-1",)


def test_a_process_that_has_stopped_is_known_to_have_ended(store: WatchedStore, keeper: LeaseKeeper) -> None:
    renewed(store)
    keeper.abandon()
    assert not heartbeat(store).is_alive


def test_a_process_that_waits_for_its_kill_does_not_say_that_it_has_ended(
    store: WatchedStore, keeper: LeaseKeeper
) -> None:
    stuck = take(store, keeper.owner())
    keeper.keep(stuck, threading.get_ident())
    keeper.let_lapse(stuck)
    keeper.abandon()
    assert isinstance(store.acquire(JOB, "b", ttl=TTL, sent_at=1), Held)
    keeper.forget(stuck)


def test_a_worker_that_starts_again_is_a_process_of_another_name(store: WatchedStore, keeper: LeaseKeeper) -> None:
    first = keeper.owner()
    keeper.abandon()
    keeper.start()
    assert process_of(keeper.owner()) != process_of(first)
    assert keeper.owner()[:16] != first[:16]
    lease = take(store, keeper.owner())
    assert store.complete(lease, b""), "its leases are its own"


def test_a_worker_that_starts_again_beats_although_the_last_beat_before_has_not_ended(
    store: WatchedStore, keeper: LeaseKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, answers = threading.Event(), threading.Event()

    def renew(*_: object) -> list[bool]:
        slow.set()
        assert answers.wait(5)
        return []

    with monkeypatch.context() as slowly:
        slowly.setattr(store, "renew", renew)
        assert slow.wait(5)
    first = keeper.owner()
    keeper.abandon()
    keeper.start()
    answers.set()
    assert keeper.owner()[:16] != first[:16], "the process of that name was declared dead: its leases protect nobody"
    renewed(store)


def test_whoever_was_frozen_for_a_lease_claims_nothing_until_it_has_beaten_and_others_had_their_head_start(
    store: WatchedStore, interrupts: Interrupts, clock: Clock
) -> None:
    keeper = LeaseKeeper(store, interrupts, timedelta(seconds=15), describe, clock=clock)
    clock.now += 14.9
    assert not keeper.store_was_away()
    clock.now += 0.2
    assert keeper.store_was_away()
    keeper.beat()
    assert keeper.store_was_away(), "the store may have been away meanwhile, and owners elsewhere have not renewed yet"
    clock.now += leases.HEAD_START
    assert not keeper.store_was_away()


def test_a_process_beats_three_times_in_a_lease_and_more_often_while_the_store_is_away(
    store: WatchedStore, interrupts: Interrupts, clock: Clock
) -> None:
    keeper = LeaseKeeper(store, interrupts, timedelta(seconds=15), describe, clock=clock)
    assert keeper.beat() == 5.0
    store.away = True
    assert keeper.beat() == leases.RETRY_RENEWAL
    store.away = False
    assert keeper.beat() == 5.0


def test_a_job_is_known_to_have_begun_from_its_run_until_it_is_forgotten(
    store: WatchedStore, interrupts: Interrupts
) -> None:
    begun = Begun(shared_memory(1))
    give(Identity(begun=begun))
    keeper = LeaseKeeper(store, interrupts, TTL, describe)
    keeper.start()
    lease = take(store, keeper.owner())
    keeper.keep(lease, threading.get_ident())
    assert begun.numbers() == set()
    keeper.run_begins(lease)
    keeper.run_has_ended(lease)
    assert begun.numbers() == {1}
    keeper.forget(lease)
    assert begun.numbers() == set()
    keeper.stop()
