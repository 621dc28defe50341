"""Environments that share one Redis do not see each other."""

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import redis
from probe_service import Probe
from worker_process import WorkerProcess

from jobkit.breaker.redis import RedisSwitches
from jobkit.producer import Producer
from jobkit.schedule.cron import cron
from jobkit.schedule.registry import RedisSchedules
from jobkit.schedule.schedule import Schedule
from jobkit.store.base import Finished, JobKey, JobState, Lease
from jobkit.store.redis import RedisStore

JOB = JobKey("probe", "probe", "invoice/17")
LEASE = timedelta(seconds=15)


def keys(redis_url: str) -> set[str]:
    with redis.Redis.from_url(redis_url) as client:
        return {key.decode() for key in client.scan_iter()}


def use(redis_url: str, namespace: str, result: bytes = b"", *, now: datetime | None = None) -> None:
    """Take a job to its end, open a breaker and announce a schedule."""
    store = RedisStore(redis_url, namespace=namespace)
    lease = store.acquire(JOB, "a", ttl=LEASE, sent_at=1)
    assert isinstance(lease, Lease), f"{namespace!r} sees what another namespace holds"
    assert store.complete(lease, result)
    store.close()
    pause = timedelta(minutes=5)
    assert RedisSwitches(redis_url, namespace=namespace).trip("probe/smtp", "a", pause=pause, longest=pause).anew
    schedules = RedisSchedules(redis_url, namespace=namespace)
    assert schedules.schedules() == []
    schedule = Schedule.of("probe", Probe, cron("0 3 * * *"))
    schedules.announce("probe", [schedule], now, actors=["probe"])


def test_without_a_namespace_keys_are_what_they_always_were(redis_url: str) -> None:
    use(redis_url, "", b"1")
    bucket = re.compile(r"jobkit:done:probe:\d{13}:\d+")
    found = keys(redis_url)
    assert sum(bucket.fullmatch(key) is not None for key in found) == 1
    assert {key for key in found if not bucket.fullmatch(key)} == {
        "jobkit:result:probe:probe:invoice/17",
        "jobkit:done:probe:generations",
        "jobkit:breaker:probe/smtp",
        "jobkit:breakers",
        "jobkit:schedules",
        "jobkit:schedules:ticks",
        "jobkit:schedules:rounds",
        "jobkit:actors",
    }


def test_namespaces_in_one_redis_do_not_see_each_other(redis_url: str) -> None:
    for namespace in ("", "staging", "staging2", "jobkit"):
        before = keys(redis_url)
        use(redis_url, namespace)
        prefix = f"{namespace}:jobkit:" if namespace else "jobkit:"
        assert all(key.startswith(prefix) for key in keys(redis_url) - before)
        assert isinstance(RedisStore(redis_url, namespace=namespace).acquire(JOB, "b", ttl=LEASE, sent_at=1), Finished)
    assert RedisSwitches(redis_url, namespace="staging").reset("probe/smtp")
    opened = {n: RedisSwitches(redis_url, namespace=n).opened() for n in ("", "staging", "staging2")}
    assert [bool(found) for found in opened.values()] == [True, False, True]


@pytest.fixture
def environment(vhost_url: str, redis_url: str) -> Mapping[str, str]:
    return {"JOBKIT_BROKER_URL": vhost_url, "JOBKIT_STORE_URL": redis_url, "JOBKIT_NAMESPACE": "staging"}


def test_workers_the_scheduler_and_commands_keep_to_their_namespace(
    environment: Mapping[str, str], vhost_url: str, redis_url: str, tmp_path: Path
) -> None:
    worker = WorkerProcess(tmp_path, environment)

    def jobkit(*arguments: str, namespace: str = "staging") -> "subprocess.CompletedProcess[str]":
        variables = {**worker.environment, "JOBKIT_NAMESPACE": namespace}
        command = [sys.executable, "-m", "jobkit.cli", *arguments]
        return subprocess.run(command, env=variables, capture_output=True, text=True, check=False, timeout=30)

    store = RedisStore(redis_url, namespace="staging")
    with worker, Producer(vhost_url) as producer:
        job = JobKey("probe", "probe", producer.send(Probe(name="n")).job_id)
        ended = {JobState.DONE, JobState.DEAD}
        worker.ledger.wait(lambda _: (found := store.record(job)) is not None and found.state in ended, what=job.id)
    use(redis_url, "staging", now=datetime.now(UTC) - timedelta(days=1))  # a tick of its schedule was missed
    with (tmp_path / "scheduler.log").open("wb") as log:
        scheduler = subprocess.Popen(
            [sys.executable, "-m", "jobkit.cli", "scheduler"], env=worker.environment, stdout=log, stderr=log
        )
        try:
            schedules = RedisSchedules(redis_url, namespace="staging")
            worker.ledger.wait(lambda _: schedules.last_sent("probe.probe") is not None, what="the missed tick")
        finally:
            scheduler.terminate()
            assert scheduler.wait(20) == 0
    assert all(key.startswith("staging:jobkit:") for key in keys(redis_url))
    assert json.loads(jobkit("status", "probe", job.id, "--json").stdout)["state"] == "done"
    assert jobkit("status", "probe", job.id, namespace="").returncode == 1
    assert json.loads(jobkit("breakers", "--json").stdout)[0]["name"] == "probe/smtp"
    assert json.loads(jobkit("breakers", "--json", namespace="").stdout) == []
    assert json.loads(jobkit("schedules", "--json").stdout)[0]["name"] == "probe.probe"
    assert json.loads(jobkit("schedules", "--json", namespace="production").stdout) == []
    assert jobkit("breakers", "close", "smtp").returncode == 0
    assert "JOBKIT_NAMESPACE" in jobkit("breakers", namespace="a:b").stderr
