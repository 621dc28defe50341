"""How many round trips to Redis a job costs: a worker's speed depends on them more than on anything else."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from datetime import timedelta
from typing import Any

import dramatiq
import pytest
from in_process import QUEUE, Ours, Work, until

from email_service.actors import SMTP, service
from email_service.settings import EmailSettings
from jobkit.breaker.redis import RedisSwitches
from jobkit.contracts.email import SendEmail
from jobkit.producer import Producer
from jobkit.run.dispatcher import RUNS
from jobkit.settings import PlatformSettings
from jobkit.store.base import JobKey, JobState
from jobkit.store.redis import RedisStore
from jobkit.store.redis_client import RedisClient

#: The heartbeat is one call for all jobs of a process, three times in a lease's life. The main thread is the test's.
OTHERS = {"jobkit-leases", threading.main_thread().name}


class RoundTrips:
    """Notes what is asked of Redis on behalf of jobs, one entry for each round trip: how many commands it had."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[int] = []
        exchange, ask = RedisClient._exchange, RedisClient.ask

        def exchanged(client: RedisClient, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
            self._note(len(commands))
            return exchange(client, commands)

        def asked(client: RedisClient, command: str, *arguments: Any) -> Any:
            self._note(1)
            return ask(client, command, *arguments)

        monkeypatch.setattr(RedisClient, "_exchange", exchanged)
        monkeypatch.setattr(RedisClient, "ask", asked)

    def _note(self, commands: int) -> None:
        if threading.current_thread().name not in OTHERS:
            self.made.append(commands)


@pytest.fixture
def trips(monkeypatch: pytest.MonkeyPatch) -> RoundTrips:
    return RoundTrips(monkeypatch)


@pytest.fixture
def store(redis_url: str) -> Iterator[RedisStore]:
    with closing(RedisStore(redis_url)) as built:
        yield built


@pytest.fixture
def warm(vhost_url: str, redis_url: str, store: RedisStore) -> Iterator[Ours]:
    """A worker whose actor is known to be short."""
    twin = Ours(vhost_url, redis_url)
    with twin.working(threads=4):
        send(twin, store, RUNS)
        yield twin


def send(twin: Ours, store: RedisStore, count: int) -> None:
    """Send jobs that do nothing, and return once each is recorded."""
    receipts = list(twin.producer.send_many([Work(name="") for _ in range(count)], receipts=True))
    keys = [JobKey.of(QUEUE, "work", receipt.job_id) for receipt in receipts]
    for key in keys:
        until(lambda: (record := store.record(key)) and record.state is JobState.DONE, "it is done")  # noqa: B023  now


def test_a_short_job_that_comes_alone_takes_two_calls_of_the_store(
    warm: Ours, store: RedisStore, trips: RoundTrips
) -> None:
    before = len(trips.made)
    for _ in range(20):
        send(warm, store, 1)
    assert trips.made[before:] == [1] * 40


def test_short_jobs_that_come_together_share_their_calls(warm: Ours, store: RedisStore, trips: RoundTrips) -> None:
    before = len(trips.made)
    send(warm, store, 400)
    calls = trips.made[before:]
    print(f"{len(calls)} calls for 400 jobs, {sum(calls)} commands")  # noqa: T201  pytest shows it on request
    assert sum(calls) >= 800, "each job is claimed, and recorded"
    assert len(calls) <= 400, "half of what they take alone"


@pytest.fixture
def emails(vhost_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Producer]:
    """The shipped email worker, with all that surrounds its jobs; the jobs themselves do nothing."""
    declared = replace(service.actors["send_email"], function=lambda _job, _context: None)
    monkeypatch.setitem(service.actors, "send_email", declared)
    monkeypatch.setattr(service, "_lifespan", lambda _settings: nullcontext())
    platform = PlatformSettings(environment="test", broker_url=vhost_url, store_url=redis_url)
    worker = dramatiq.Worker(service.build(platform, EmailSettings()), worker_threads=2, worker_timeout=50)
    worker.start()
    try:
        with Producer(vhost_url) as producer:
            yield producer
    finally:
        worker.stop(timeout=8_000)
        worker.broker.close()


def email(producer: Producer) -> JobKey:
    receipt = producer.send(SendEmail(to=("ada@example.org",), template="welcome", variables={}))
    return JobKey("email", "send_email", receipt.job_id)


def until_it_is(state: JobState, key: JobKey, store: RedisStore) -> None:
    until(lambda: (record := store.record(key)) and record.state is state, f"it is {state}")


def test_a_job_of_a_shipped_actor_with_a_breaker_takes_two_calls_of_the_store(
    emails: Producer, store: RedisStore, trips: RoundTrips
) -> None:
    before = len(trips.made)
    for _ in range(20):
        until_it_is(JobState.DONE, email(emails), store)
    assert service.actors["send_email"].breaker is SMTP
    assert trips.made[before:] == [1] * 40


def test_a_job_waits_for_a_breaker_that_was_opened_elsewhere_and_runs_once_it_is_closed(
    emails: Producer, store: RedisStore, redis_url: str
) -> None:
    until_it_is(JobState.DONE, email(emails), store)
    switches, pause = RedisSwitches(redis_url), timedelta(minutes=5)
    switches.trip(f"email/{SMTP.name}", "elsewhere", pause=timedelta(seconds=1), longest=pause)
    waiting = email(emails)
    until_it_is(JobState.WAITING, waiting, store)
    until_it_is(JobState.DONE, waiting, store)
    assert switches.look(f"email/{SMTP.name}") is None, "it has probed"
    until_it_is(JobState.DONE, email(emails), store)
