"""What Redis keeps of jobs that are done: little, for long enough, and found whatever has changed since."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import timedelta
from itertools import count

import pytest
import redis
from sizes import size
from staged_store import ClockKeyStore, set_clock

from jobkit.store.base import (
    Completed,
    Finished,
    Held,
    JobKey,
    JobState,
    Lease,
    Record,
)
from jobkit.store.redis import RedisStore
from jobkit.time import milliseconds

NOW = 1_700_000_000_000
HOUR, DAY = 3_600_000, 86_400_000
LEASE = timedelta(seconds=15)
LIFE = timedelta(days=1)

#: Marks that are measured. The whole million in `make prove`.
MARKS = size(100_000, 1_000_000)

#: The most that a done job without a result may take, in bytes, for the whole of its record's life.
MOST_BYTES = 120

_ids = count()


@pytest.fixture
def admin(redis_url: str) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@contextmanager
def store_of(url: str, life: timedelta = LIFE) -> Iterator[RedisStore]:
    """A store by the clock of the test, whose records have this life."""
    with closing(ClockKeyStore(url, life)) as store:
        yield store


@pytest.fixture
def store(redis_url: str, admin: "redis.Redis") -> Iterator[RedisStore]:
    set_clock(admin, NOW)
    with store_of(redis_url) as built:
        yield built


def new_job() -> JobKey:
    return JobKey("email", "send_email", f"job-{next(_ids)}")


def take(
    store: RedisStore, job: JobKey, owner: str = "p:1", *, sent_at: int = NOW, job_round: int = 0, attempts: int = 0
) -> Lease:
    lease = store.acquire(job, owner, ttl=LEASE, sent_at=sent_at, job_round=job_round, attempts_before=attempts)
    assert isinstance(lease, Lease), lease
    return lease


def done(store: RedisStore, result: bytes = b"") -> JobKey:
    """Take a job to its end."""
    job = new_job()
    assert store.complete(take(store, job), result)
    return job


def is_done(store: RedisStore, job: JobKey) -> bool:
    return store.acquire(job, "late:1", ttl=LEASE, sent_at=NOW) == Finished(JobState.DONE)


def generations(admin: "redis.Redis") -> list[str]:
    """Those of the service email, the newest first."""
    text = admin.get("jobkit:done:email:generations")
    assert isinstance(text, bytes)
    return text.decode().split(",")[:-1]


# ---- what is kept


def test_a_job_that_is_done_and_has_no_result_has_no_record_but_its_mark(
    store: RedisStore, admin: "redis.Redis"
) -> None:
    job = new_job()
    lease = take(store, job)
    assert store.remember(lease, "day", b"1") == b"1"
    set_clock(admin, NOW + 1_234)
    assert store.complete(lease, b"")
    assert admin.keys("jobkit:job:*") == []
    assert is_done(store, job)


def test_a_mark_says_when_and_how_the_job_ran(store: RedisStore, admin: "redis.Redis") -> None:
    job = new_job()
    store.bury(take(store, job, sent_at=7), failure="no")
    store.release(take(store, job, "p:2", sent_at=7, job_round=3), delay=timedelta(), counted=True, failure="busy")
    set_clock(admin, NOW + HOUR)
    lease = take(store, job, "p:3", sent_at=7, job_round=3)
    set_clock(admin, NOW + HOUR + 1_234)
    assert store.complete(lease, b"")
    record = store.record(job)
    assert record is not None
    assert (record.state, record.attempt, record.fence, record.round) == (JobState.DONE, 2, lease.fence, 3)
    assert (record.started_at, record.finished_at) == (NOW + HOUR, NOW + HOUR + 1_234)
    assert (record.percent, record.result, record.failure) == (100.0, b"", "")


def test_a_mark_of_a_run_whose_record_was_lost_does_not_say_when_it_began(
    store: RedisStore, admin: "redis.Redis"
) -> None:
    job = new_job()
    lease = take(store, job)
    admin.delete("jobkit:job:email:send_email:" + job.id)
    assert store.complete(lease, b"")
    record = store.record(job)
    assert record is not None
    assert (record.started_at, record.finished_at, record.attempt) == (0, NOW, 1)


def test_numbers_that_a_mark_cannot_hold_are_kept_as_the_largest(store: RedisStore, admin: "redis.Redis") -> None:
    job = new_job()
    lease = take(store, job, sent_at=2**60, attempts=99_999, job_round=99_999)
    set_clock(admin, NOW + 100 * DAY)
    assert store.complete(lease, b"")
    record = store.record(job)
    assert record is not None
    assert (record.attempt, record.round) == (65_535, 65_535)
    assert record.started_at == record.finished_at - (2**32 - 2)


def test_a_result_is_kept_beside_the_mark_without_what_only_runs_need(redis_url: str, admin: "redis.Redis") -> None:
    with closing(RedisStore(redis_url, result_ttl=timedelta(hours=1))) as store:
        job = new_job()
        lease = take(store, job)
        store.remember(lease, "day", b"1")
        store.report(lease, percent=40, step="resize", note="2 of 5")
        assert store.complete(lease, b'{"ok":true}')
        record = store.record(job)
        assert record is not None
        assert (record.result, record.step, record.note, record.percent) == (b'{"ok":true}', "resize", "2 of 5", 100.0)
        assert admin.keys("jobkit:job:*") == []
        key = f"jobkit:result:email:send_email:{job.id}"
        assert HOUR - 60_000 < admin.pttl(key) <= HOUR
        admin.delete(key)  # as when that time is over
        record = store.record(job)
        assert record is not None
        assert (record.state, record.result, record.step) == (JobState.DONE, b"", "")
        assert is_done(store, job)


def test_a_result_is_kept_no_longer_than_the_record_and_not_at_all_if_nobody_wants_it(
    redis_url: str, admin: "redis.Redis"
) -> None:
    for wanted, kept in ((timedelta(days=2), LIFE), (timedelta(), timedelta())):
        admin.flushall()
        with closing(RedisStore(redis_url, LIFE, result_ttl=wanted)) as store:
            done(store, b"1")
        keys = admin.keys("jobkit:result:*")
        assert len(keys) == bool(kept)
        assert all(0 < admin.pttl(key) <= milliseconds(kept) for key in keys)


@pytest.mark.timeout(size(120, 900))
@pytest.mark.prove("memory of done jobs in Redis", size=f"{MARKS:,} marks of jobs with ids of 36 characters")
def test_a_done_job_without_a_result_takes_few_bytes(redis_url: str, admin: "redis.Redis") -> None:
    job = new_job()
    before = admin.info("memory")["used_memory"]
    with closing(RedisStore(redis_url)) as store:
        for first in range(0, MARKS, 500):
            jobs = [replace(job, id=f"{number:036}") for number in range(first, first + 500)]
            # Of records that were lost, which takes half of the time: they are written again, and end as others do.
            leases = [Lease(one, "5f2c9d0e1b7a4c38:17", NOW + number, 1) for number, one in enumerate(jobs)]
            assert all(store.end_all([Record(lease, Completed(b"")) for lease in leases]))
    grown = admin.info("memory")["used_memory"] - before
    usage = sum(admin.memory_usage(key, samples=0) or 0 for key in admin.keys("*"))
    print(f"{usage / MARKS:.1f} bytes by MEMORY USAGE, {grown / MARKS:.1f} by used_memory")  # noqa: T201  on request
    assert sum(admin.hlen(key) - 1 for key in admin.keys("jobkit:done:email:1*")) == MARKS
    assert usage / MARKS <= MOST_BYTES
    assert grown / MARKS <= MOST_BYTES


# ---- whose end it was


def test_the_end_of_a_done_job_is_told_again_to_its_owner_and_to_nobody_else(store: RedisStore) -> None:
    job = new_job()
    lease = take(store, job)
    assert store.complete(lease, b"")
    assert store.complete(lease, b"")
    assert store.release(lease, delay=timedelta(), counted=True), "as of a job whose record is there"
    for other in (replace(lease, owner="q:1"), replace(lease, fence=lease.fence + 1), replace(lease, fence=1)):
        assert store.renew([other], LEASE) == [False]
        assert not store.complete(other, b"2")
        assert not store.bury(other, failure="no")
        assert not store.release(other, delay=timedelta(), counted=True)
    assert store.renew([lease], LEASE) == [False]
    assert is_done(store, job)
    assert store.acquire(job, lease.owner, ttl=LEASE, sent_at=NOW) == Finished(JobState.DONE)


def test_jobs_of_other_services_and_actors_are_not_done(store: RedisStore) -> None:
    job = done(store)
    for other in (replace(job, service="billing"), replace(job, actor="build_report"), replace(job, id=job.id + "0")):
        assert isinstance(store.acquire(other, "p:1", ttl=LEASE, sent_at=NOW), Lease)


def test_a_delayed_send_of_a_done_job_and_one_in_a_higher_round_are_answered(store: RedisStore) -> None:
    job = done(store)
    delay = timedelta(hours=1)
    answers = [
        store.acquire(job, "a:1", ttl=LEASE, sent_at=NOW + 1, due_at=NOW + HOUR, delay=delay),
        store.acquire(job, "a:2", ttl=LEASE, sent_at=NOW + 1, job_round=1),
    ]
    assert answers == [Finished(JobState.DONE)] * 2


# ---- for how long


def test_a_mark_lives_for_the_records_life_and_for_half_as_long_again_at_most(
    store: RedisStore, admin: "redis.Redis"
) -> None:
    for quarter in range(13):
        set_clock(admin, NOW + quarter * DAY // 4)
        for bucket in admin.keys("jobkit:done:email:1*"):
            admin.delete(bucket)
        done(store)
        (bucket,) = admin.keys("jobkit:done:email:1*")
        spread = 256 * 1_000
        assert DAY <= admin.pttl(bucket) <= DAY + DAY // 2 + spread
    assert len(generations(admin)) <= 3


def test_a_done_job_is_found_in_whichever_hour_it_was_done(store: RedisStore, admin: "redis.Redis") -> None:
    jobs = []
    for hour in range(24):
        set_clock(admin, NOW + hour * HOUR)
        jobs.append(done(store))
    set_clock(admin, NOW + DAY - 1)
    assert all(is_done(store, job) for job in jobs)


@pytest.mark.parametrize("factor", [1 / 24, 0.9, 1.1, 30])
def test_a_changed_life_of_records_hides_no_done_job(
    store: RedisStore, redis_url: str, admin: "redis.Redis", factor: float
) -> None:
    job = done(store)
    with store_of(redis_url, LIFE * factor) as changed:
        jobs = []
        for hour in range(0, 24, 3):
            set_clock(admin, NOW + hour * HOUR)
            jobs.append(done(changed))
            assert is_done(changed, jobs[-1])
        assert is_done(changed, job)
        if factor > 1:
            assert all(is_done(changed, one) for one in jobs)
            buckets = admin.keys(f"jobkit:done:email:{generations(admin)[0].split(':')[0]}:*")
            assert all(admin.pttl(bucket) >= milliseconds(LIFE * factor) for bucket in buckets)


def test_workers_whose_records_have_other_lives_share_no_generation_and_begin_few(
    store: RedisStore, redis_url: str, admin: "redis.Redis"
) -> None:
    with store_of(redis_url, LIFE / 24) as other:
        jobs = [(one, done(one)) for _ in range(20) for one in (store, other)]
    assert len(generations(admin)) == 2
    assert all(is_done(store, job) for _, job in jobs)


def test_a_clock_that_goes_back_begins_no_generation_for_each_job_and_hides_none(
    store: RedisStore, admin: "redis.Redis"
) -> None:
    jobs = []
    for hour in (0, -1, 0, -2, -11, -200, -201, -200, 0, 400 * 24, -1):
        set_clock(admin, NOW + hour * HOUR)
        jobs += [done(store) for _ in range(3)]
        assert all(is_done(store, job) for job in jobs[-3:])
    assert len(generations(admin)) <= 5
    assert all(is_done(store, job) for job in jobs[-3:])


def test_two_generations_that_begin_in_one_millisecond_are_two(store: RedisStore, redis_url: str) -> None:
    job = done(store)
    with store_of(redis_url, LIFE * 30) as other, redis.Redis.from_url(redis_url) as admin:
        assert is_done(other, done(other))
        names = [one.split(":")[0] for one in generations(admin)]
    assert names == [str(NOW + 1), str(NOW)]
    assert is_done(store, job)


def test_generations_that_have_ended_are_forgotten(store: RedisStore, admin: "redis.Redis") -> None:
    for day in range(30):
        set_clock(admin, NOW + day * DAY)
        done(store)
    assert len(generations(admin)) <= 3
    assert 0 < admin.pttl("jobkit:done:email:generations") <= DAY + DAY // 2


# ---- what earlier versions have left behind


def write(admin: "redis.Redis", job: JobKey, **fields: str | int) -> None:
    """Write a record as they did."""
    always: dict[str, str | int] = {
        "owner": "old:1",
        "fence": NOW,
        "attempt": 1,
        "crashes": 0,
        "sent_at": NOW,
        "started_at": NOW,
    }
    for name, value in {**always, **fields}.items():
        admin.hset(f"jobkit:job:email:send_email:{job.id}", name, value)


def test_a_record_of_a_done_job_in_the_layout_of_before_is_answered_as_ever(
    store: RedisStore, admin: "redis.Redis"
) -> None:
    """They have no mark, and last for the life that they were given."""
    job = new_job()
    lease = Lease(job, "old:1", NOW, 1)
    write(admin, job, state="done", finished_at=NOW + 5, result="1", percent=100)
    assert is_done(store, job)
    assert store.complete(lease, b"1")
    assert not store.complete(replace(lease, fence=NOW + 1), b"2")
    record = store.record(job)
    assert record is not None
    assert (record.state, record.result, record.finished_at) == (JobState.DONE, b"1", NOW + 5)


def test_a_job_that_ran_in_the_layout_of_before_ends_with_a_mark(store: RedisStore, admin: "redis.Redis") -> None:
    job = new_job()
    write(admin, job, state="running", lease_until=NOW + 1_000, span=15_000, seen=f",{NOW},", first_failed_at=0)
    assert isinstance(store.acquire(job, "p:1", ttl=LEASE, sent_at=NOW), Held)
    set_clock(admin, NOW + 2_000)
    assert store.complete(take(store, job), b"")
    assert admin.keys("jobkit:job:*") == []
    assert is_done(store, job)


def test_the_record_of_a_done_job_is_kept_too_for_versions_that_know_no_marks(
    redis_url: str, admin: "redis.Redis"
) -> None:
    set_clock(admin, NOW)
    with closing(ClockKeyStore(redis_url, LIFE, keep_done=True)) as store:
        job = new_job()
        lease = store.acquire(job, "a", ttl=LEASE, sent_at=1)
        assert isinstance(lease, Lease)
        assert store.complete(lease, b"7")
        key = f"jobkit:job:{job.service}:{job.actor}:{job.id}"
        assert (admin.hget(key, "state"), admin.hget(key, "result")) == (b"done", b"7")
        assert 0 < admin.pttl(key) <= milliseconds(LIFE)
        assert store.complete(lease, b"7"), "the same end again"
        assert store.acquire(job, "b", ttl=LEASE, sent_at=2) == Finished(JobState.DONE)
    with store_of(redis_url) as later:
        admin.delete(key)
        assert later.acquire(job, "c", ttl=LEASE, sent_at=3) == Finished(JobState.DONE), "the mark is there as well"
