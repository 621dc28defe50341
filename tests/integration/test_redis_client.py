"""What becomes of a call when Redis fails over, hangs or is restarted: it is answered, or ends in time and says so."""

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from redis import Redis
from sockets import connections

from jobkit.breaker.redis import RedisSwitches
from jobkit.errors import RecordUnreadable, StoreUnavailable
from jobkit.schedule.registry import RedisSchedules
from jobkit.store import redis_client
from jobkit.store.base import GENERATION, Finished, JobKey, JobState, Lease, Process
from jobkit.store.redis import RedisStore
from jobkit.store.redis_client import Lua, RedisClient
from local_stack.redis import Redis as RedisNode

#: Seconds to connect, and seconds for an answer.
TIMEOUT = 1.0
MINUTE = timedelta(minutes=1)
#: Idle connections that a worker's threads have left behind.
IDLE = 4

NAME = "redis.invalid"
#: READONLY and NOREPLICAS, in words.
REFUSED = r"read only replica|Not enough good replicas"
JOB = JobKey("email", "send_email", "job-1")


def _writing(store_url: str) -> Callable[[], object]:
    store, ids = RedisStore(store_url, timeout=TIMEOUT), count()
    return lambda: store.acquire(JobKey("email", "send_email", f"{next(ids)}"), "a", ttl=MINUTE, sent_at=1)


def _reading(store_url: str) -> Callable[[], object]:
    store = RedisStore(store_url, timeout=TIMEOUT)
    return lambda: store.record(JOB)


def _tripping(store_url: str) -> Callable[[], object]:
    switches, names = RedisSwitches(store_url, timeout=TIMEOUT), count()
    return lambda: switches.trip(f"smtp-{next(names)}", "a", pause=MINUTE, longest=MINUTE)


def _announcing(store_url: str) -> Callable[[], object]:
    schedules = RedisSchedules(store_url, timeout=TIMEOUT)
    return lambda: schedules.announce("files", [], datetime.now(UTC))


def _listing(store_url: str) -> Callable[[], object]:
    schedules = RedisSchedules(store_url, timeout=TIMEOUT)
    return schedules.schedules


WRITERS = [_writing, _tripping, _announcing]
EVERYBODY = [*WRITERS, _reading, _listing]


# ---- the name leads to another Redis


class Pair:
    """A primary and its replica, of which a name leads to the one that takes writes."""

    def __init__(self, primary: RedisNode, replica: RedisNode) -> None:
        self.primary, self.replica = primary, replica
        self.led_to = primary
        self.url = f"redis://{NAME}:6379/0"
        with self.admin(primary) as admin:
            admin.config_set("repl-diskless-sync-delay", 0)
        self.follow(replica, primary)

    @staticmethod
    def admin(node: RedisNode) -> Redis:
        return Redis.from_url(node.url)

    def follow(self, node: RedisNode, other: RedisNode) -> None:
        with self.admin(node) as admin:
            admin.replicaof("127.0.0.1", str(other.ports["clients"]))

    def fail_over(self) -> None:
        """Promote the replica, and let the name lead to it, once it has all that there is."""
        with self.admin(self.primary) as admin, self.admin(self.replica) as promoted:
            admin.set("last", "word")
            assert admin.wait(1, 20_000) == 1
            promoted.replicaof("NO", "ONE")
        self.led_to = self.replica

    def demote(self) -> None:
        """READONLY, from now on, is what the old primary says to a write."""
        self.follow(self.primary, self.replica)

    def cut_off(self) -> None:
        """NOREPLICAS is what it says, as a primary does that no longer hears of the others."""
        with self.admin(self.primary) as admin:
            _until(lambda: not admin.info("replication")["connected_slaves"])  # it learns of it a moment later
            admin.config_set("min-replicas-to-write", 1)


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, redis_server: RedisNode) -> Iterator[Pair]:
    nodes = [RedisNode(tmp_path / name) for name in ("one", "two")]
    with ExitStack() as stack:
        for node in nodes:
            stack.callback(node.kill)
            node.start()
        pair, resolve = Pair(*nodes), socket.getaddrinfo

        def led(host: str, port: int, *more: Any, **options: Any) -> Any:
            if host == NAME:
                host, port = "127.0.0.1", pair.led_to.ports["clients"]
            return resolve(host, port, *more, **options)

        monkeypatch.setattr(socket, "getaddrinfo", led)
        yield pair


@pytest.mark.parametrize("loss", [Pair.demote, Pair.cut_off])
def test_after_one_failure_the_store_goes_on_with_the_new_primary(pair: Pair, loss: Callable[[Pair], None]) -> None:
    store = RedisStore(pair.url)
    port = pair.primary.ports["clients"]
    pair.primary.pause()
    with ThreadPoolExecutor(IDLE) as threads:
        for _ in range(IDLE):
            threads.submit(store.ping)
        _until(lambda: len(connections(port)) == IDLE)
        pair.primary.resume()
    lease = store.acquire(JOB, "a", ttl=MINUTE, sent_at=1)
    assert isinstance(lease, Lease)
    pair.fail_over()
    loss(pair)
    with pytest.raises(StoreUnavailable, match=REFUSED):
        store.renew([lease], MINUTE)
    assert store.renew([lease], MINUTE) == [True]
    assert store.complete(lease, b"result")
    assert connections(port) == set()
    store.close()


@pytest.mark.parametrize("writer", WRITERS)
def test_whoever_writes_goes_on_with_the_new_primary(pair: Pair, writer: Callable[[str], Callable[[], object]]) -> None:
    write = writer(pair.url)
    write()
    pair.fail_over()
    pair.demote()
    with pytest.raises(StoreUnavailable, match=REFUSED):
        write()
    write()


# ---- it answers, and says no


@contextmanager
def full(redis_url: str) -> Iterator[None]:
    with Redis.from_url(redis_url) as admin:
        admin.config_set("maxmemory", 1)
        try:
            yield
        finally:
            admin.config_set("maxmemory", 0)


def test_a_refused_call_leaves_the_connections_of_other_threads_alone(redis_server: RedisNode, redis_url: str) -> None:
    store, port = RedisStore(redis_url), redis_server.ports["clients"]
    with ThreadPoolExecutor(IDLE) as threads:
        redis_server.pause()
        for _ in range(IDLE):
            threads.submit(store.ping)
        _until(lambda: len(connections(port)) == IDLE)
        redis_server.resume()
    before = connections(port)
    with full(redis_url):
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match="maxmemory"):
                store.acquire(JOB, "a", ttl=MINUTE, sent_at=1)
    assert connections(port) == before
    store.close()


def test_no_call_gets_the_answer_to_one_that_was_broken_off(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client = RedisClient(redis_url, 10.0)
    slow = Lua("for _ = 1, 2e7 do end return ARGV[1]")  # so that its answer comes when the next call has been sent
    quick = Lua("return ARGV[1]")
    client.run([(slow, [], ["1"]), (quick, [], ["2"])])

    def interrupted(_connection: object) -> None:
        raise KeyboardInterrupt  # as the interrupt of a job may come between any two lines on Python 3.11

    with monkeypatch.context() as patch:
        patch.setattr(redis_client, "_answer", interrupted)
        with pytest.raises(KeyboardInterrupt):
            client.run([(slow, [], ["of another"])])
    assert client.run([(quick, [], ["its own"])]) == [b"its own"]
    client.close()


def test_one_record_that_is_none_ends_neither_the_renewal_of_others_nor_another_job(redis_url: str) -> None:
    store = RedisStore(redis_url)
    jobs = [JobKey("email", "send_email", f"job-{number}") for number in range(3)]
    leases = [store.acquire(job, "a", ttl=MINUTE, sent_at=1) for job in jobs]
    with Redis.from_url(redis_url) as admin:
        admin.set("jobkit:job:email:send_email:job-1", "a word")
    assert store.renew([lease for lease in leases if isinstance(lease, Lease)], MINUTE) == [True, False, True]
    with pytest.raises(RecordUnreadable, match="wrong kind"):
        store.acquire(jobs[1], "b", ttl=MINUTE, sent_at=1)
    store.close()


def test_in_a_full_store_running_jobs_are_renewed_and_end_and_none_begins(redis_url: str) -> None:
    store = RedisStore(redis_url)
    process = Process("p", "email", "host-a", 17, ("email",), GENERATION, 1)
    jobs = [JobKey("email", "send_email", f"job-{number}") for number in range(5)]
    answers = [store.acquire(job, f"p:{number}", ttl=MINUTE, sent_at=1) for number, job in enumerate(jobs)]
    leases = [answer for answer in answers if isinstance(answer, Lease)]
    with full(redis_url):
        assert store.renew(leases, MINUTE, process) == [True] * 5
        done, dead, waiting, lost, running = leases
        assert store.complete(done, b"1")
        assert store.bury(dead, failure="no")
        assert store.release(waiting, delay=MINUTE, counted=True, failure="busy")
        with Redis.from_url(redis_url) as admin:
            admin.delete("jobkit:job:email:send_email:job-3")
        assert store.complete(lost, b"")
        assert store.acquire(done.job, "q:1", ttl=MINUTE, sent_at=1) == Finished(JobState.DONE)
        with pytest.raises(StoreUnavailable, match="maxmemory"):
            store.acquire(JobKey("email", "send_email", "new"), "q:2", ttl=MINUTE, sent_at=1)
        store.declare_dead("p", "email", ())
    records = [record for job in jobs if (record := store.record(job)) is not None]
    states = [JobState.DONE, JobState.DEAD, JobState.WAITING, JobState.DONE, JobState.RUNNING]
    assert [record.state for record in records] == states
    assert isinstance(store.acquire(running.job, "q:3", ttl=MINUTE, sent_at=1), Lease), "its process is dead"
    with Redis.from_url(redis_url) as admin:
        assert all(admin.pttl(key) > 0 for key in admin.keys("jobkit:*")), "nothing stays for ever"
    store.close()


# ---- it hangs


@pytest.mark.parametrize("used", [True, False], ids=["used", "new"])
@pytest.mark.parametrize("caller", EVERYBODY)
def test_a_call_to_a_redis_that_hangs_ends_within_two_time_outs(
    redis_server: RedisNode, redis_url: str, caller: Callable[[str], Callable[[], object]], used: bool
) -> None:
    call = caller(redis_url)
    if used:
        call()
    redis_server.pause()
    try:
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match=r"(?i)time"):
            call()
        took = time.monotonic() - began
    finally:
        redis_server.resume()
    assert took < 2 * TIMEOUT
    call()


# ---- it has hung up


def test_connections_that_redis_has_closed_while_idle_are_replaced(redis_url: str) -> None:
    calls = [caller(redis_url) for caller in EVERYBODY]
    for call in calls:
        call()
    with Redis.from_url(redis_url) as admin:
        assert admin.client_kill_filter(_type="normal", skipme=True) >= len(calls)
    for call in calls:
        call()


def test_after_a_restart_the_second_call_succeeds_at_the_latest(redis_server: RedisNode, redis_url: str) -> None:
    calls = [caller(redis_url) for caller in EVERYBODY]
    for call in calls:
        call()
    redis_server.kill()
    redis_server.start()
    for call in calls:
        with suppress(StoreUnavailable):
            call()
        call()


def _until(condition: Callable[[], bool], limit: float = 10.0) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.005)


def test_each_of_as_many_threads_as_a_worker_may_have_gets_its_answer(redis_url: str) -> None:
    threads = 256
    store, all_ask = RedisStore(redis_url, timeout=20.0), Barrier(threads)

    def ask(number: int) -> object:
        all_ask.wait(20)
        return store.acquire(JobKey("email", "send_email", f"many-{number}"), "a", ttl=MINUTE, sent_at=1)

    with ThreadPoolExecutor(threads) as pool:
        assert all(isinstance(answer, Lease) for answer in pool.map(ask, range(threads)))
    store.close()
