"""What every job store promises; each implementation runs the whole suite."""

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from typing import Protocol

import pytest

from jobkit.breaker.redis import RedisSwitches
from jobkit.breaker.switches import MemorySwitches, Probe, Switches
from jobkit.store.base import (
    GENERATION,
    Buried,
    Claim,
    Completed,
    Finished,
    Held,
    JobKey,
    JobState,
    JobStore,
    Lease,
    Process,
    Record,
    Released,
    Suspect,
)
from jobkit.store.memory import MemoryStore
from jobkit.store.redis import RedisStore

TTL = timedelta(seconds=5)
BRIEF = timedelta(milliseconds=60)
_ids = itertools.count()


class Node(Protocol):
    url: str


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest) -> Iterator[JobStore]:
    if request.param == "memory":
        built: JobStore = MemoryStore()
    else:
        built = RedisStore(request.getfixturevalue("redis_server").url)
    yield built
    built.close()


@pytest.fixture(params=["memory", "redis"])
def brief_store(request: pytest.FixtureRequest) -> Iterator[JobStore]:
    """A store that keeps results for a moment."""
    if request.param == "memory":
        built: JobStore = MemoryStore(result_ttl=BRIEF)
    else:
        built = RedisStore(request.getfixturevalue("redis_server").url, result_ttl=BRIEF)
    yield built
    built.close()


@pytest.fixture
def job() -> JobKey:
    return JobKey("email", "send_email", f"job-{next(_ids)}-{time.time_ns()}")


def take(
    store: JobStore, job: JobKey, owner: str = "a", ttl: timedelta = TTL, sent_at: int = 1, **more: object
) -> Lease:
    lease = store.acquire(job, owner, ttl=ttl, sent_at=sent_at, **more)  # type: ignore[arg-type]  # each by its name
    assert isinstance(lease, Lease), lease
    return lease


def wait_until(condition: Callable[[], bool], limit: float = 5.0) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.005)


def test_a_free_job_is_leased_for_its_first_attempt(store: JobStore, job: JobKey) -> None:
    lease = take(store, job)
    assert (lease.attempt, lease.crashes) == (1, 0)
    record = store.record(job)
    assert record is not None
    assert record.state is JobState.RUNNING
    assert record.started_at < record.lease_until <= record.started_at + 5000


@pytest.fixture(params=["memory", "redis"])
def switched(request: pytest.FixtureRequest) -> Iterator[tuple[JobStore, Switches]]:
    """A store, and the breakers that it looks at."""
    if request.param == "memory":
        memory = MemorySwitches()
        yield MemoryStore(is_open=lambda name: memory.look(name) is not None), memory
        return
    url = request.getfixturevalue("redis_server").url
    with closing(RedisStore(url)) as redis:
        yield redis, RedisSwitches(url)


def test_a_lease_says_whether_its_breaker_is_open(switched: tuple[JobStore, Switches], job: JobKey) -> None:
    store, switches = switched
    breaker = f"email/{job.id}"
    others = [JobKey(job.service, job.actor, f"{job.id}-{number}") for number in range(3)]

    def in_a_group(owner: str) -> list[bool | None]:
        claims = [Claim(one, owner, sent_at=1, breaker=breaker if one != others[2] else "") for one in others]
        leases = [answer for answer in store.acquire_all(claims, TTL) if isinstance(answer, Lease)]
        store.end_all([Record(lease, Released()) for lease in leases])
        return [lease.breaker_open for lease in leases]

    lease = take(store, job, breaker=breaker)
    assert lease.breaker_open is False
    assert in_a_group("a") == [False, False, None]
    switches.trip(breaker, "a", pause=timedelta(), longest=timedelta())
    assert take(store, job, breaker=breaker).breaker_open, "who asks for its lease again is told what is so now"
    new = JobKey(job.service, job.actor, f"{job.id}-new")
    assert take(store, new, breaker=breaker).breaker_open, "most jobs have no record yet"
    assert take(store, job).breaker_open is None, "nobody has asked"
    assert in_a_group("b") == [True, True, None]
    assert isinstance(switches.ask(breaker, "b", probe_for=TTL), Probe), "claims have only looked"
    assert switches.close(breaker, "b")
    store.release(lease, delay=timedelta(), counted=False)
    assert take(store, job, "c", breaker=breaker).breaker_open is False


def test_leases_are_equal_whatever_they_say_of_a_breaker(switched: tuple[JobStore, Switches], job: JobKey) -> None:
    store, _ = switched
    lease = take(store, job, breaker=f"email/{job.id}")
    assert lease == take(store, job)
    assert store.complete(replace(lease, breaker_open=True), b"1")


def test_a_running_job_is_held_until_its_lease_ends(store: JobStore, job: JobKey) -> None:
    take(store, job, "a")
    held = store.acquire(job, "b", ttl=TTL, sent_at=1)
    assert isinstance(held, Held)
    assert held.state is JobState.RUNNING
    assert timedelta(0) < held.wait <= TTL


def test_the_same_owner_gets_the_same_lease_again(store: JobStore, job: JobKey) -> None:
    assert take(store, job) == take(store, job)


def test_a_done_job_never_runs_again(store: JobStore, job: JobKey) -> None:
    lease = take(store, job)
    assert store.complete(lease, b'{"ok":true}')
    assert store.acquire(job, "b", ttl=TTL, sent_at=2) == Finished(JobState.DONE)
    record = store.record(job)
    assert record is not None
    assert (record.state, record.result, record.percent) == (JobState.DONE, b'{"ok":true}', 100.0)


@pytest.mark.parametrize("result", [b"", b"1"])
def test_a_result_is_kept_for_a_while_and_that_the_job_is_done_for_longer(
    brief_store: JobStore, job: JobKey, result: bytes
) -> None:
    store, lease = brief_store, take(brief_store, job)
    store.report(lease, percent=40, step="resize", note="2 of 5")
    assert store.complete(lease, result)
    wait_until(lambda: (found := store.record(job)) is not None and not found.step)
    record = store.record(job)
    assert record is not None
    assert (record.state, record.attempt, record.fence, record.percent) == (JobState.DONE, 1, lease.fence, 100.0)
    assert (record.result, record.step, record.note, record.failure) == (b"", "", "", "")
    assert 0 < record.started_at <= record.finished_at
    assert store.acquire(job, "b", ttl=TTL, sent_at=2) == Finished(JobState.DONE)
    assert store.complete(lease, result), "the answer was lost, and it is told again"
    assert not store.complete(replace(lease, owner="another"), b"2")
    assert not store.bury(replace(lease, fence=lease.fence + 1), failure="no")
    assert store.renew([lease], TTL) == [False]


def test_a_transition_may_be_repeated_after_a_lost_answer(store: JobStore, job: JobKey) -> None:
    lease = take(store, job)
    assert store.complete(lease, b"1")
    assert store.complete(lease, b"1")
    other = JobKey(job.service, job.actor, job.id + "-released")
    lease = take(store, other)
    assert store.release(lease, delay=timedelta(0), counted=False)
    assert store.release(lease, delay=timedelta(0), counted=False)
    assert take(store, other, "b").attempt == 1


def test_a_lapsed_lease_is_a_crash_and_gives_a_higher_fence(store: JobStore, job: JobKey) -> None:
    first = take(store, job, "a", BRIEF)
    wait_until(lambda: isinstance(store.acquire(job, "b", ttl=TTL, sent_at=1), Lease))
    second = take(store, job, "b")
    assert (second.crashes, second.attempt) == (1, 2)
    assert second.fence > first.fence


def test_whoever_gets_the_job_of_a_worker_that_died_is_told_so_once(store: JobStore, job: JobKey) -> None:
    assert not take(store, job, "a", BRIEF).stalled
    wait_until(lambda: not isinstance(store.acquire(job, "x", ttl=BRIEF, sent_at=1, alone_at=1), Held))
    lease = take(store, job, "b")
    assert lease.stalled
    assert not take(store, job, "b").stalled
    store.release(lease, delay=timedelta(0), counted=True, failure="no")
    again = take(store, job, "c")
    assert (again.crashes, again.stalled) == (1, False)


def test_an_owner_that_lost_its_lease_changes_nothing(store: JobStore, job: JobKey) -> None:
    late = take(store, job, "a", BRIEF)
    wait_until(lambda: isinstance(store.acquire(job, "b", ttl=TTL, sent_at=1), Lease))
    current = take(store, job, "b")
    assert not store.complete(late, b"late")
    assert not store.release(late, delay=timedelta(0), counted=True)
    assert not store.bury(late, failure="late")
    assert not store.report(late, percent=50, step="late", note="")
    assert store.renew([late, current], TTL) == [False, True]
    assert store.complete(current, b"current")


def test_a_lease_that_lapsed_but_was_given_to_nobody_can_be_renewed(store: JobStore, job: JobKey) -> None:
    lease = take(store, job, "a", timedelta(milliseconds=1))
    time.sleep(0.02)  # the lease lapses by the store's own clock: there is no event to wait for
    assert store.renew([lease], TTL) == [True]
    assert isinstance(store.acquire(job, "b", ttl=TTL, sent_at=1), Held)


def test_a_released_job_counts_its_attempt_or_not(store: JobStore, job: JobKey) -> None:
    assert store.release(take(store, job, "a"), delay=timedelta(0), counted=True, failure="no route")
    second = take(store, job, "b")
    assert second.attempt == 2
    assert second.first_failed_at > 0
    assert store.release(second, delay=timedelta(0), counted=False)
    assert take(store, job, "c").attempt == 2


def test_a_job_that_is_not_due_is_held(store: JobStore, job: JobKey) -> None:
    store.release(take(store, job), delay=timedelta(seconds=30), counted=True)
    held = store.acquire(job, "b", ttl=TTL, sent_at=1)
    assert isinstance(held, Held)
    assert held.state is JobState.WAITING
    assert timedelta(seconds=25) < held.wait <= timedelta(seconds=30)


def test_the_redelivery_of_a_dead_message_is_answered_from_the_record(store: JobStore, job: JobKey) -> None:
    assert store.bury(take(store, job, sent_at=7), failure="bad address")
    assert store.acquire(job, "b", ttl=TTL, sent_at=7) == Finished(JobState.DEAD)


def test_a_dead_job_that_is_sent_anew_starts_over(store: JobStore, job: JobKey) -> None:
    store.bury(take(store, job, sent_at=7), failure="bad address")
    again = take(store, job, "b", sent_at=8)
    assert (again.attempt, again.crashes, again.first_failed_at) == (1, 0, 0)


def test_a_dead_letter_that_is_sent_again_starts_over(store: JobStore, job: JobKey) -> None:
    store.bury(take(store, job, sent_at=7), failure="bad address")
    again = take(store, job, "b", sent_at=7, job_round=1)
    assert (again.attempt, again.round_of(7)) == (1, 1)
    record = store.record(job)
    assert record is not None
    assert record.round == 1


def test_each_round_of_a_dead_job_runs_once(store: JobStore, job: JobKey) -> None:
    for number in range(3):
        store.bury(take(store, job, f"round {number}", sent_at=7, job_round=number), failure="bad address")
        for earlier in range(number + 1):
            assert store.acquire(job, "again", ttl=TTL, sent_at=7, job_round=earlier) == Finished(JobState.DEAD)


def test_a_round_counts_among_the_messages_of_one_send(store: JobStore, job: JobKey) -> None:
    for number in range(3):
        store.bury(take(store, job, f"round {number}", sent_at=7, job_round=number), failure="bad address")
    later = take(store, job, "sent later", sent_at=8)
    assert later.round_of(8) == 0
    store.bury(later, failure="bad address")
    assert store.acquire(job, "b", ttl=TTL, sent_at=8) == Finished(JobState.DEAD)
    assert store.acquire(job, "b", ttl=TTL, sent_at=7, job_round=2) == Finished(JobState.DEAD)
    assert take(store, job, "the earlier send's dead letter", sent_at=7, job_round=3).round_of(7) == 3


def test_a_higher_round_starts_only_a_dead_job(store: JobStore, job: JobKey) -> None:
    lease = take(store, job, sent_at=7)
    assert isinstance(store.acquire(job, "b", ttl=TTL, sent_at=7, job_round=1), Held)
    store.release(lease, delay=timedelta(seconds=30), counted=True, failure="no")
    assert isinstance(store.acquire(job, "b", ttl=TTL, sent_at=7, job_round=1), Held)
    assert store.complete(lease, b"")
    assert store.acquire(job, "b", ttl=TTL, sent_at=7, job_round=1) == Finished(JobState.DONE)


def test_a_round_that_waited_while_its_job_died_starts_it(store: JobStore, job: JobKey) -> None:
    lease = take(store, job, sent_at=8)
    assert isinstance(store.acquire(job, "b", ttl=TTL, sent_at=7, job_round=1), Held)
    store.bury(lease, failure="bad address")
    assert take(store, job, "b", sent_at=7, job_round=1).attempt == 1


def test_a_lower_round_that_runs_is_told_the_highest_one(store: JobStore, job: JobKey) -> None:
    store.bury(take(store, job, sent_at=7), failure="bad address")
    store.release(take(store, job, "b", sent_at=7, job_round=1), delay=timedelta(0), counted=True, failure="no")
    assert take(store, job, "a late copy", sent_at=7).round_of(7) == 1


@pytest.mark.parametrize("change", ["renew", "release", "bury"])
def test_a_record_that_is_written_again_has_its_rounds(store: JobStore, job: JobKey, change: str) -> None:
    store.bury(take(store, job, sent_at=7), failure="bad address")
    lease = take(store, job, "b", sent_at=7, job_round=1)
    lost = replace(lease, job=JobKey(job.service, job.actor, f"{job.id}-lost"))
    if change == "renew":
        assert store.renew([lost], TTL) == [True]
    if change == "release":
        assert store.release(lost, delay=timedelta(0), counted=True, failure="no")
    assert store.bury(lost, failure="no")
    assert store.acquire(lost.job, "c", ttl=TTL, sent_at=7, job_round=1) == Finished(JobState.DEAD)
    assert take(store, lost.job, "d", sent_at=7, job_round=2).rounds == ((7, 2),)


def test_a_job_remembers_the_last_rounds_and_no_more(store: JobStore, job: JobKey) -> None:
    for moment in range(40):
        lease = take(store, job, str(moment), sent_at=moment, job_round=1)
        store.bury(lease, failure="no")
    assert lease.rounds == tuple((moment, 1) for moment in range(24, 40))
    assert take(store, job, "higher", sent_at=30, job_round=2).rounds[-2:] == ((39, 1), (30, 2))


def test_the_fence_rises_over_a_death(store: JobStore, job: JobKey) -> None:
    first = take(store, job, sent_at=7)
    store.bury(first, failure="bad address")
    assert take(store, job, "b", sent_at=8).fence > first.fence


def test_attempts_that_the_message_knows_of_survive_the_loss_of_the_record(store: JobStore, job: JobKey) -> None:
    assert take(store, job, attempts_before=4).attempt == 5


def test_a_completion_is_recorded_even_if_the_record_was_lost(store: JobStore, job: JobKey) -> None:
    lost = Lease(job, "a", fence=3, attempt=2)
    assert store.complete(lost, b"{}")
    assert store.acquire(job, "b", ttl=TTL, sent_at=1) == Finished(JobState.DONE)


def test_progress_is_readable_while_the_job_runs_and_starts_over_with_it(store: JobStore, job: JobKey) -> None:
    lease = take(store, job)
    assert store.report(lease, percent=40, step="resize", note="2 of 5")
    record = store.record(job)
    assert record is not None
    assert (record.percent, record.step, record.note) == (40, "resize", "2 of 5")
    store.release(lease, delay=timedelta(0), counted=True)
    take(store, job, "b")
    record = store.record(job)
    assert record is not None
    assert (record.percent, record.step) == (0, "")


def test_what_the_first_run_has_made_is_the_same_for_all_later_ones(store: JobStore, job: JobKey) -> None:
    lease = take(store, job, "a", BRIEF)
    assert store.remember(lease, "day", b'{"day":"1"}') == b'{"day":"1"}'
    assert store.remember(lease, "day", b'{"day":"2"}') == b'{"day":"1"}'
    wait_until(lambda: not isinstance(store.acquire(job, "b", ttl=TTL, sent_at=1), Held))
    crashed = take(store, job, "b")
    assert store.remember(crashed, "day", b'{"day":"3"}') == b'{"day":"1"}'
    store.release(crashed, delay=timedelta(0), counted=True, failure="no")
    again = take(store, job, "c")
    assert store.remember(again, "day", b'{"day":"4"}') == b'{"day":"1"}'
    store.bury(again, failure="no")
    again = take(store, job, "d", job_round=1)
    assert store.remember(again, "day", b'{"day":"5"}') == b'{"day":"1"}'


def test_only_the_owner_of_a_running_job_is_told_what_it_has_made(store: JobStore, job: JobKey) -> None:
    late = take(store, job, "a", BRIEF)
    wait_until(lambda: not isinstance(store.acquire(job, "b", ttl=TTL, sent_at=1), Held))
    assert store.remember(late, "day", b"a") is None
    lease = take(store, job, "b")
    store.release(lease, delay=timedelta(0), counted=False)
    assert store.remember(lease, "day", b"b") is None
    assert store.remember(take(store, job, "c"), "day", b"c") == b"c"
    assert store.remember(Lease(JobKey("email", "send_email", "nobody"), "a", 1, 1), "day", b"a") is None


def test_what_is_remembered_has_names_and_can_be_forgotten(store: JobStore, job: JobKey) -> None:
    lease = take(store, job)
    assert store.remember(lease, "", b"defaults") == b"defaults"
    assert store.remember(lease, "dot", b"1") == b"1"
    assert store.forget(lease, "dot")
    assert store.forget(lease, "dot")  # an answer was lost
    assert store.remember(lease, "dot", b"2") == b"2"
    assert store.remember(lease, "", b"others") == b"defaults"
    store.release(lease, delay=timedelta(0), counted=False)
    assert not store.forget(lease, "dot")


def test_attempts_and_crashes_count_from_the_last_checkpoint(store: JobStore, job: JobKey) -> None:
    store.release(take(store, job), delay=timedelta(0), counted=True, failure="no")
    crashed = take(store, job, "b", BRIEF)
    assert crashed.attempt == 2
    wait_until(lambda: not isinstance(store.acquire(job, "c", ttl=TTL, sent_at=1), Held))
    lease = take(store, job, "c")
    assert (lease.attempt, lease.crashes, lease.crashes_before) == (3, 1, 0)
    assert store.checkpoint(lease)
    assert store.checkpoint(lease)  # an answer was lost
    record = store.record(job)
    assert record is not None
    assert (record.attempt, record.crashes) == (1, 0)
    store.release(lease, delay=timedelta(0), counted=True, failure="no")
    # A message from before the checkpoint says that two attempts were made: they count no more.
    again = take(store, job, "d", attempts_before=2)
    assert (again.attempt, again.crashes, again.crashes_before) == (2, 0, 1)
    assert take(store, job, "d", attempts_before=2) == again


def test_a_run_that_is_handed_back_after_a_checkpoint_has_used_up_no_attempt(store: JobStore, job: JobKey) -> None:
    store.release(take(store, job), delay=timedelta(0), counted=True, failure="no")
    lease = take(store, job, "b")
    assert store.checkpoint(lease)
    store.release(lease, delay=timedelta(0), counted=False)
    assert take(store, job, "c", attempts_before=1).attempt == 1


def test_only_the_owner_of_a_running_job_makes_a_checkpoint(store: JobStore, job: JobKey) -> None:
    lease = take(store, job)
    store.release(lease, delay=timedelta(0), counted=True)
    assert not store.checkpoint(lease)
    assert take(store, job, "b").attempt == 2


def test_a_dead_job_that_starts_over_knows_of_no_checkpoint(store: JobStore, job: JobKey) -> None:
    lease = take(store, job, "a", BRIEF)
    wait_until(lambda: not isinstance(store.acquire(job, "b", ttl=TTL, sent_at=1), Held))
    lease = take(store, job, "b")
    assert store.checkpoint(lease)
    store.bury(lease, failure="no")
    again = take(store, job, "c", job_round=1)
    assert (again.attempt, again.crashes, again.crashes_before) == (1, 0, 0)
    store.release(again, delay=timedelta(0), counted=True)
    assert take(store, job, "d", attempts_before=4).attempt == 5


def test_jobs_of_two_services_may_share_actor_and_id(store: JobStore, job: JobKey) -> None:
    assert store.complete(take(store, job), b"")
    assert take(store, JobKey("billing", job.actor, job.id)).attempt == 1


def test_jobs_of_two_actors_may_share_an_id(store: JobStore, job: JobKey) -> None:
    store.complete(take(store, job), b"")
    assert take(store, JobKey("email", "build_report", job.id)).attempt == 1


def test_a_job_without_a_record_is_unknown(store: JobStore, job: JobKey) -> None:
    assert store.record(job) is None


def test_a_job_on_its_last_chance_is_leased_only_alone_and_waits_without_a_lease(store: JobStore, job: JobKey) -> None:
    take(store, job, "a", BRIEF)
    wait_until(lambda: isinstance(store.acquire(job, "b", ttl=TTL, sent_at=1, alone_at=1), Suspect))
    assert store.acquire(job, "c", ttl=TTL, sent_at=1, alone_at=1) == Suspect(crashes=1), "asking counts no crash"
    lease = take(store, job, "d", alone_at=1, alone=True)
    assert (lease.crashes, lease.attempt) == (1, 2)


def test_a_job_beyond_its_last_chance_is_leased_so_that_it_can_be_buried(store: JobStore, job: JobKey) -> None:
    take(store, job, "a", BRIEF)
    wait_until(lambda: isinstance(store.acquire(job, "b", ttl=BRIEF, sent_at=1, alone_at=1, alone=True), Lease))
    wait_until(lambda: isinstance(store.acquire(job, "c", ttl=TTL, sent_at=1, alone_at=1), Lease))
    assert take(store, job, "c").crashes == 2


def test_a_suspect_s_owner_that_was_only_late_can_still_finish(store: JobStore, job: JobKey) -> None:
    late = take(store, job, "a", BRIEF)
    wait_until(lambda: isinstance(store.acquire(job, "b", ttl=TTL, sent_at=1, alone_at=1), Suspect))
    assert store.complete(late, b"late, but nobody else has run it")


def test_the_renewal_of_a_lost_record_writes_it_anew(store: JobStore, job: JobKey) -> None:
    lease = Lease(job, "a", fence=1_800_000_000_000, attempt=2, crashes=1)
    assert store.renew([lease], TTL) == [True]
    assert isinstance(store.acquire(job, "b", ttl=TTL, sent_at=1), Held)
    assert store.complete(lease, b"")


def test_an_owner_whose_record_was_lost_does_not_free_the_next_owner_s_job(store: JobStore, job: JobKey) -> None:
    current = take(store, job, "b")
    impostor = Lease(job, "a", current.fence, attempt=1)
    assert not store.release(impostor, delay=timedelta(0), counted=True)
    assert not store.complete(impostor, b"")
    assert isinstance(store.acquire(job, "c", ttl=TTL, sent_at=1), Held)


def test_the_fence_rises_over_the_loss_of_the_record(store: JobStore, job: JobKey) -> None:
    assert take(store, job).fence > time.time_ns() // 1_000_000 - 60_000


def test_a_job_that_runs_again_shows_nothing_of_the_time_before(store: JobStore, job: JobKey) -> None:
    store.release(take(store, job, "a"), delay=timedelta(0), counted=True, failure="busy")
    store.bury(take(store, job, "b", sent_at=7), failure="bad address")
    take(store, job, "c", sent_at=8)
    record = store.record(job)
    assert record is not None
    assert (record.due_at, record.finished_at, record.result, record.failure) == (0, 0, b"", "")


NOW = time.time_ns() // 1_000_000


@pytest.fixture(autouse=True)
def _now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the clock of the senders to the start of the test: this file may have been imported 20 minutes before."""
    monkeypatch.setitem(globals(), "NOW", time.time_ns() // 1_000_000)


def die(store: JobStore, job: JobKey, owner: str, sent_at: int) -> None:
    assert store.bury(take(store, job, owner, sent_at=sent_at), failure="no")


def test_an_older_duplicate_of_a_job_that_has_died_since_is_answered(store: JobStore, job: JobKey) -> None:
    die(store, job, "first", NOW)
    die(store, job, "sent again", NOW + 10)
    for sent_at in (NOW, NOW + 10):  # the broker delivers both once more
        assert store.acquire(job, "late", ttl=TTL, sent_at=sent_at) == Finished(JobState.DEAD)


def test_a_duplicate_that_waited_while_its_job_died_is_answered(store: JobStore, job: JobKey) -> None:
    lease = take(store, job, "newer", sent_at=NOW + 10)
    assert isinstance(store.acquire(job, "older", ttl=TTL, sent_at=NOW), Held)
    assert store.bury(lease, failure="no")
    assert store.acquire(job, "older", ttl=TTL, sent_at=NOW) == Finished(JobState.DEAD)


def test_a_send_from_long_before_the_death_is_answered_though_it_was_never_delivered(
    store: JobStore, job: JobKey
) -> None:
    die(store, job, "a", NOW)
    assert store.acquire(job, "b", ttl=TTL, sent_at=NOW - 3_600_000) == Finished(JobState.DEAD)


def test_a_send_is_never_answered_with_an_earlier_death_though_its_senders_clock_is_behind(
    store: JobStore, job: JobKey
) -> None:
    die(store, job, "a", NOW)
    behind = NOW - 5 * 60_000
    die(store, job, "sent after the death", behind)
    assert store.acquire(job, "redelivered", ttl=TTL, sent_at=behind) == Finished(JobState.DEAD)
    assert store.acquire(job, "redelivered", ttl=TTL, sent_at=NOW) == Finished(JobState.DEAD)


def test_a_sender_that_does_not_say_when_is_not_answered_with_an_earlier_death(store: JobStore, job: JobKey) -> None:
    die(store, job, "a", NOW)
    take(store, job, "b", sent_at=0)


def test_a_job_remembers_the_last_sends_and_no_more(store: JobStore, job: JobKey) -> None:
    for number in range(40):
        die(store, job, str(number), NOW + number)
    assert store.acquire(job, "late", ttl=TTL, sent_at=NOW + 30) == Finished(JobState.DEAD)
    assert isinstance(store.acquire(job, "older", ttl=TTL, sent_at=NOW), Lease)


def test_a_delayed_job_that_comes_too_early_waits_until_it_is_due(store: JobStore, job: JobKey) -> None:
    now = time.time_ns() // 1_000_000
    due_at, delay = now + 3_600_000, timedelta(hours=1)
    held = store.acquire(job, "a", ttl=TTL, sent_at=now, due_at=due_at, delay=delay)
    assert isinstance(held, Held)
    assert held.state is JobState.WAITING
    assert timedelta(minutes=59) < held.wait <= delay
    record = store.record(job)
    assert record is not None
    assert (record.state, record.attempt, record.waits_for) == (JobState.WAITING, 0, "its delay")
    again = store.acquire(job, "a copy", ttl=TTL, sent_at=now, due_at=due_at, delay=delay)
    assert isinstance(again, Held)
    assert again.wait <= held.wait


def test_a_senders_clock_that_is_ahead_delays_its_job_by_no_more_than_it_asked_for(
    store: JobStore, job: JobKey
) -> None:
    now = time.time_ns() // 1_000_000
    tomorrow, delay = now + 86_400_000, timedelta(seconds=2)
    held = store.acquire(job, "a", ttl=TTL, sent_at=now, due_at=tomorrow, delay=delay)
    assert isinstance(held, Held)
    assert held.wait <= delay
    wait_until(lambda: isinstance(store.acquire(job, "b", ttl=TTL, sent_at=now, due_at=tomorrow, delay=delay), Lease))


def test_a_delayed_job_that_comes_in_time_runs_at_once(store: JobStore, job: JobKey) -> None:
    now = time.time_ns() // 1_000_000
    take(store, job, sent_at=now, due_at=now + 500, delay=timedelta(seconds=60))


def test_a_dead_job_that_is_sent_again_with_a_delay_waits_too(store: JobStore, job: JobKey) -> None:
    now = time.time_ns() // 1_000_000
    die(store, job, "a", now)
    later = now + 1
    held = store.acquire(job, "b", ttl=TTL, sent_at=later, due_at=now + 60_000, delay=timedelta(minutes=1))
    assert isinstance(held, Held)
    record = store.record(job)
    assert record is not None
    assert (record.state, record.failure, record.finished_at) == (JobState.WAITING, "", 0)


def test_a_job_that_waits_says_what_for_until_it_runs(store: JobStore, job: JobKey) -> None:
    assert store.release(take(store, job), delay=timedelta(), counted=False, waits_for="breaker smtp is open")
    waiting = store.record(job)
    assert waiting is not None
    assert waiting.waits_for == "breaker smtp is open"
    take(store, job, "b")
    running = store.record(job)
    assert running is not None
    assert running.waits_for == ""


# ---- processes


@pytest.fixture
def process() -> Process:
    return Process(f"{next(_ids)}-{time.time_ns()}", f"s{time.time_ns()}", "host-a", 17, ("email",), GENERATION, 1)


def owner_in(process: Process, number: int) -> str:
    return f"{process.name}:{number}"


def test_the_jobs_of_a_process_that_was_declared_dead_are_free_at_once(
    store: JobStore, job: JobKey, process: Process
) -> None:
    first = take(store, job, owner_in(process, 1))
    store.declare_dead(process.name, process.service, {1})
    second = take(store, job, "b")
    assert (second.attempt, second.crashes, second.stalled) == (2, 1, True)
    assert not store.complete(first, b"")
    assert isinstance(store.acquire(job, "c", ttl=TTL, sent_at=1), Held), "the next owner lives"


def test_a_job_that_had_not_begun_counts_nothing_when_its_process_dies(
    store: JobStore, job: JobKey, process: Process
) -> None:
    store.release(take(store, job), delay=timedelta(), counted=True)
    take(store, job, owner_in(process, 12))
    store.declare_dead(process.name, process.service, {1, 2})
    again = take(store, job, "b")
    assert (again.attempt, again.crashes, again.stalled) == (2, 0, False)


def test_what_a_process_asked_for_before_its_end_holds_nobody_up_though_it_arrives_later(
    store: JobStore, job: JobKey, process: Process
) -> None:
    store.declare_dead(process.name, process.service, ())
    lease = take(store, job, owner_in(process, 1))
    assert store.renew([lease], TTL, process) == [True]
    assert take(store, job, "b").crashes == 0
    assert [beat.is_alive for beat in store.processes(process.service)] == [False]


def test_what_a_process_has_finished_before_its_end_stays_done(store: JobStore, job: JobKey, process: Process) -> None:
    lease = take(store, job, owner_in(process, 1))
    store.declare_dead(process.name, process.service, {1})
    assert store.complete(lease, b"")
    assert store.acquire(job, "b", ttl=TTL, sent_at=1) == Finished(JobState.DONE)


def test_the_jobs_of_other_processes_stay_theirs(store: JobStore, job: JobKey, process: Process) -> None:
    take(store, job, owner_in(process, 1))
    store.declare_dead(process.name + "0", process.service, {1})
    assert isinstance(store.acquire(job, "b", ttl=TTL, sent_at=1), Held)


def test_an_owner_that_names_no_process_is_judged_by_its_lease(store: JobStore, job: JobKey, process: Process) -> None:
    take(store, job, process.name)
    store.declare_dead(process.name, process.service, {1})
    assert isinstance(store.acquire(job, "b", ttl=TTL, sent_at=1), Held)


def test_a_process_is_known_from_its_first_renewal_on(store: JobStore, job: JobKey, process: Process) -> None:
    assert store.processes(process.service) == []
    assert store.renew([], TTL, process) == []
    (beat,) = store.processes(process.service)
    assert (beat.process, beat.is_alive) == (process, True)
    assert beat.beat_at > 1_700_000_000_000
    busy = replace(process, running=("send_email job-1",))
    lease = take(store, job, owner_in(process, 1))
    assert store.renew([lease], TTL, busy) == [True]
    assert [beat.process for beat in store.processes(process.service)] == [busy]


def test_a_process_that_has_not_renewed_in_time_is_silent(store: JobStore, process: Process) -> None:
    store.renew([], BRIEF, process)
    wait_until(lambda: not store.processes(process.service)[0].is_alive)


def test_a_process_is_declared_dead_as_often_as_one_likes(store: JobStore, job: JobKey, process: Process) -> None:
    take(store, job, owner_in(process, 1))
    for _ in range(2):
        store.declare_dead(process.name, process.service, {1})
    assert take(store, job, "b").crashes == 1


def test_an_owner_that_takes_over_from_one_that_has_not_begun_has_a_lease_of_its_own(
    store: JobStore, job: JobKey
) -> None:
    store.release(take(store, job), delay=timedelta(), counted=True)
    before = take(store, job, "p:1")
    lease = take(store, job, "p:2", instead_of="p:1")
    assert (lease.attempt, lease.crashes, lease.stalled) == (before.attempt, 0, False)
    assert lease.fence > before.fence
    assert not store.release(before, delay=timedelta(), counted=False), "a release that comes late ends nothing"
    assert isinstance(store.acquire(job, "q:1", ttl=TTL, sent_at=1, instead_of="p:1"), Held)
    assert store.complete(lease, b"")


def test_a_lease_ahead_of_a_thread_that_ends_by_time_counts_nothing_once(store: JobStore, job: JobKey) -> None:
    """Process and supervisor have died together: nobody declares it, and the next claim is for a redelivery."""
    store.release(take(store, job), delay=timedelta(), counted=True, failure="no")
    first = take(store, job, "p:1", BRIEF, ahead=True)
    wait_until(lambda: not isinstance(store.acquire(job, "q:1", ttl=BRIEF, sent_at=1, ahead=True), Held))
    spared = take(store, job, "q:1", BRIEF)
    assert (spared.attempt, spared.crashes, spared.stalled) == (first.attempt, 0, False)
    assert spared.fence > first.fence
    wait_until(lambda: not isinstance(store.acquire(job, "r:1", ttl=TTL, sent_at=1, ahead=True), Held))
    again = take(store, job, "r:1")
    assert (again.attempt, again.crashes) == (first.attempt + 1, 1), "what takes its machine down each time is found"


def test_whoever_is_told_of_a_lease_ahead_is_not_told_that_a_job_has_stalled(store: JobStore, job: JobKey) -> None:
    take(store, job, "p:1", BRIEF, ahead=True)
    wait_until(lambda: isinstance(store.acquire(job, "x:1", ttl=BRIEF, sent_at=1, alone_at=1), Lease))


def test_a_lease_ahead_whose_thread_asks_again_counts(store: JobStore, job: JobKey) -> None:
    ahead = take(store, job, "p:1", BRIEF, ahead=True)
    assert take(store, job, "p:1", BRIEF) == ahead
    wait_until(lambda: not isinstance(store.acquire(job, "q:1", ttl=TTL, sent_at=1), Held))
    assert take(store, job, "q:1").crashes == 1


def test_a_lease_ahead_counts_once_its_job_has_made_a_checkpoint(store: JobStore, job: JobKey) -> None:
    assert store.checkpoint(take(store, job, "p:1", BRIEF, ahead=True))
    wait_until(lambda: not isinstance(store.acquire(job, "q:1", ttl=TTL, sent_at=1), Held))
    assert take(store, job, "q:1").crashes == 1


def test_a_lease_that_follows_one_ahead_counts(store: JobStore, job: JobKey) -> None:
    store.release(take(store, job, "p:1", ahead=True), delay=timedelta(), counted=False)
    take(store, job, "q:1", BRIEF)
    wait_until(lambda: not isinstance(store.acquire(job, "r:1", ttl=TTL, sent_at=1), Held))
    assert take(store, job, "r:1").crashes == 1


def test_a_job_claimed_ahead_that_had_begun_when_its_process_was_declared_dead_counts(
    store: JobStore, job: JobKey, process: Process
) -> None:
    take(store, job, owner_in(process, 1), ahead=True)
    store.declare_dead(process.name, process.service, {1})
    assert take(store, job, "b").crashes == 1


def test_several_jobs_are_asked_for_and_ended_in_one_call(store: JobStore, job: JobKey) -> None:
    jobs = [replace(job, id=f"{job.id}-{n}") for n in range(4)]
    taken = take(store, jobs[3], "other")
    claims = [Claim(one, f"p:{n}", sent_at=1) for n, one in enumerate(jobs)]
    *leases, held = store.acquire_all(claims, TTL)
    assert isinstance(held, Held)
    ends: list[Completed | Released | Buried] = [
        Completed(b"1"),
        Released(timedelta(), counted=True, failure="no"),
        Buried("never"),
        Completed(b"2"),
    ]
    owned = [*[lease for lease in leases if isinstance(lease, Lease)], replace(taken, fence=1)]
    answers = store.end_all([Record(lease, end) for lease, end in zip(owned, ends, strict=True)])
    assert answers == [True, True, True, False]
    states = [record.state for one in jobs if (record := store.record(one)) is not None]
    assert states == [JobState.DONE, JobState.WAITING, JobState.DEAD, JobState.RUNNING]
    assert store.acquire_all([], TTL) == []
    assert store.end_all([]) == []
