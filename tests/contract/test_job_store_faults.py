"""Clocks that jump and stores that forget: what every job store promises all the same.

The machine in ``test_job_store_machine.py`` finds such cases; the ones that were once wrong have a name here.
"""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from staged_store import StagedStore, staged

from jobkit.store.base import Finished, Held, JobKey, JobState, Lease

NOW = 1_700_000_000_000
SECOND = 1000
DAY = 86_400 * SECOND
TTL = timedelta(seconds=15)
JOB = JobKey("email", "send_email", "job-1")


@pytest.fixture(params=["memory", "redis"])
def stage(request: pytest.FixtureRequest, redis_url: str) -> Iterator[StagedStore]:
    with staged(request.param, redis_url) as stage:
        stage.set_clock(NOW)
        yield stage


def take(stage: StagedStore, owner: str = "a", *, sent_at: int = 1, attempts_before: int = 0) -> Lease:
    lease = stage.store.acquire(JOB, owner, ttl=TTL, sent_at=sent_at, attempts_before=attempts_before)
    assert isinstance(lease, Lease), lease
    return lease


def wait_of(stage: StagedStore, owner: str = "b") -> timedelta:
    held = stage.store.acquire(JOB, owner, ttl=TTL, sent_at=1)
    assert isinstance(held, Held), held
    return held.wait


# ---- clocks


def test_a_clock_that_went_back_holds_the_job_of_a_dead_owner_for_one_lease_at_most(stage: StagedStore) -> None:
    take(stage)
    stage.set_clock(NOW - DAY)
    assert wait_of(stage) == TTL
    stage.set_clock(NOW - DAY + 10 * SECOND)
    assert wait_of(stage, "c") == timedelta(seconds=5), "the lease begins again once, not with every question"
    stage.set_clock(NOW - DAY + 15 * SECOND)
    assert take(stage, "b").crashes == 1


def test_a_clock_that_went_back_makes_a_job_wait_for_its_delay_at_most(stage: StagedStore) -> None:
    stage.store.release(take(stage), delay=timedelta(seconds=30), counted=True)
    stage.set_clock(NOW - DAY)
    assert wait_of(stage) == timedelta(seconds=30)
    stage.set_clock(NOW - DAY + 30 * SECOND)
    assert take(stage, "b").attempt == 2


def test_an_owner_that_lives_keeps_its_job_though_the_clock_goes_back(stage: StagedStore) -> None:
    lease = take(stage)
    stage.set_clock(NOW - DAY)
    assert stage.store.renew([lease], TTL) == [True]
    stage.set_clock(NOW - DAY + 14 * SECOND)
    assert wait_of(stage) == timedelta(seconds=1)
    assert stage.store.complete(lease, b"")


def test_a_long_lease_is_not_cut_short_by_a_delivery_that_asks_for_a_shorter_one(stage: StagedStore) -> None:
    assert isinstance(stage.store.acquire(JOB, "a", ttl=timedelta(minutes=5), sent_at=1), Lease)
    assert wait_of(stage) == timedelta(minutes=5)


def test_the_fence_rises_though_the_clock_goes_back(stage: StagedStore) -> None:
    first = take(stage)
    stage.set_clock(NOW - DAY)
    stage.store.release(first, delay=timedelta(0), counted=False)
    assert take(stage, "b").fence > first.fence


def test_the_fence_rises_over_a_loss_once_the_clock_has_passed_the_one_before(stage: StagedStore) -> None:
    first = take(stage)
    stage.put_back(JOB, None)
    stage.set_clock(NOW + 1)
    assert take(stage, "b").fence > first.fence


def test_an_owner_that_renews_before_another_asks_keeps_its_job_though_the_clock_jumps_forward(
    stage: StagedStore,
) -> None:
    lease = take(stage)
    stage.set_clock(NOW + DAY)
    assert stage.store.renew([lease], TTL) == [True]
    assert wait_of(stage) == TTL


# ---- answers that came late


def test_a_lease_whose_answer_was_lost_is_good_from_when_the_owner_hears_of_it(stage: StagedStore) -> None:
    first = take(stage)
    stage.set_clock(NOW + 60 * SECOND)
    assert take(stage) == first
    assert wait_of(stage) == TTL


# ---- losses: Redis without its last second, or a replica that lagged behind


def test_a_run_that_began_in_the_lost_second_is_recorded_over_the_older_record(stage: StagedStore) -> None:
    stage.store.release(take(stage), delay=timedelta(0), counted=True, failure="busy")
    older = stage.copy_of(JOB)
    stage.set_clock(NOW + SECOND)
    second = take(stage, "b")
    stage.put_back(JOB, older)
    assert stage.store.complete(second, b"{}")
    assert stage.store.acquire(JOB, "c", ttl=TTL, sent_at=1) == Finished(JobState.DONE)


def test_a_run_that_began_in_the_lost_second_keeps_its_job(stage: StagedStore) -> None:
    first = take(stage)
    stage.store.release(first, delay=timedelta(0), counted=True, failure="busy")
    older = stage.copy_of(JOB)
    stage.set_clock(NOW + SECOND)
    second = take(stage, "b")
    stage.put_back(JOB, older)
    assert stage.store.renew([second], TTL) == [True]
    assert wait_of(stage, "c") == TTL
    assert not stage.store.complete(first, b"late")


def test_a_delay_is_kept_though_the_record_was_lost(stage: StagedStore) -> None:
    lease = take(stage)
    stage.put_back(JOB, None)
    assert stage.store.release(lease, delay=timedelta(seconds=30), counted=True, failure="busy")
    assert wait_of(stage) == timedelta(seconds=30)


def test_the_redelivery_of_a_dead_message_is_answered_though_the_record_was_lost_meanwhile(stage: StagedStore) -> None:
    lease = take(stage, sent_at=7)
    stage.put_back(JOB, None)
    assert stage.store.renew([lease], TTL) == [True]
    assert stage.store.bury(lease, failure="bad address")
    assert stage.store.acquire(JOB, "b", ttl=TTL, sent_at=7) == Finished(JobState.DEAD)


def test_attempts_that_a_message_sent_anew_knows_of_count_over_an_older_death(stage: StagedStore) -> None:
    stage.store.bury(take(stage, sent_at=7), failure="bad address")
    assert take(stage, "b", sent_at=8, attempts_before=2).attempt == 3


def test_a_late_owner_does_not_take_a_job_that_is_done_back_to_running(stage: StagedStore) -> None:
    first = take(stage)
    stage.put_back(JOB, None)
    stage.set_clock(NOW + SECOND)
    second = take(stage, "b")
    stage.put_back(JOB, None)
    assert stage.store.complete(first, b"first")
    assert stage.store.renew([second], TTL) == [False]
    assert not stage.store.complete(second, b"second")
    record = stage.store.record(JOB)
    assert record is not None
    assert (record.state, record.result) == (JobState.DONE, b"first")


def test_when_a_job_first_failed_is_told_whatever_happens_after(stage: StagedStore) -> None:
    stage.store.release(take(stage), delay=timedelta(0), counted=True, failure="busy")
    stage.set_clock(NOW + SECOND)
    second = take(stage, "b")
    stage.put_back(JOB, None)
    stage.store.release(second, delay=timedelta(0), counted=True, failure="busy still")
    assert take(stage, "c").first_failed_at == NOW


def test_a_job_that_ends_after_its_worker_has_handed_it_back_is_done(stage: StagedStore) -> None:
    lease = take(stage)
    assert stage.store.release(lease, delay=timedelta(seconds=5), counted=False)
    assert stage.store.complete(lease, b"result")
    stage.set_clock(NOW + DAY // 2)
    assert stage.store.acquire(JOB, "b", ttl=TTL, sent_at=1) == Finished(JobState.DONE)
