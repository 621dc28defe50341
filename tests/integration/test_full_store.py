"""A job store without room: what runs ends, what is new waits and says why, and nothing has to be restarted."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis
from in_process import until
from ledger import Ledger
from probe_service import Probe
from worker_process import WorkerProcess

from jobkit.producer import Producer
from jobkit.store.base import JobKey, JobState
from jobkit.store.redis import RedisStore

FULL = "the job store is full ("
SCARCE = "the job store uses "

#: Seconds: a worker looks every ten, and so often it writes what the health check reads.
LIMIT = 60


@pytest.fixture
def admin(redis_url: str) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(redis_url) as client:
        yield client
        client.config_set("maxmemory", 0)


@pytest.fixture
def worker(tmp_path: Path, vhost_url: str, redis_url: str) -> WorkerProcess:
    folder = str(tmp_path / "health")
    settings = {"JOBKIT_BROKER_URL": vhost_url, "JOBKIT_STORE_URL": redis_url, "JOBKIT_HEALTH_FOLDER": folder}
    return WorkerProcess(tmp_path, settings)


def jobkit(worker: WorkerProcess, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "jobkit.cli", *arguments]
    return subprocess.run(command, env=worker.environment, capture_output=True, text=True, check=False, timeout=100)


def warnings(worker: WorkerProcess) -> list[str]:
    lines = [json.loads(line) for line in worker.output().splitlines() if line.startswith("{")]
    return [line["event"] for line in lines if line["level"] == "warning"]


@pytest.mark.timeout(300)
def test_in_a_full_store_a_running_job_ends_and_a_new_one_waits_and_says_why(
    worker: WorkerProcess, producer: Producer, ledger: Ledger, admin: "redis.Redis", redis_url: str
) -> None:
    with worker, closing(RedisStore(redis_url)) as store:
        running = JobKey("probe", "probe", producer.send(Probe(name="running", seconds=3)).job_id)
        ledger.wait_for("start", "running")
        admin.config_set("maxmemory", 1)
        until(lambda: (found := store.record(running)) and found.state is JobState.DONE, "the running job is recorded")
        waiting = producer.send(Probe(name="waiting")).job_id
        until(lambda: FULL in jobkit(worker, "health").stderr, "the health check says why jobs wait", LIMIT)
        assert jobkit(worker, "health").returncode == 0, "a restart would not help"
        told = jobkit(worker, "status", "probe", waiting)
        assert FULL in told.stderr
        assert told.returncode == 1, "it has not started"
        told = jobkit(worker, "status", "probe", running.id, "--json")
        assert json.loads(told.stdout)["state"] == "done"
        assert ledger.counts("start")["waiting"] == 0
        admin.config_set("maxmemory", 0)
        ledger.wait_for("end", "waiting")
        until(lambda: not jobkit(worker, "health").stderr, "the health check has nothing to say", LIMIT)
    assert ledger.counts("end") == {"running": 1, "waiting": 1}


@pytest.mark.timeout(200)
def test_a_worker_warns_of_a_store_that_is_nearly_full(worker: WorkerProcess, admin: "redis.Redis") -> None:
    admin.config_set("maxmemory", int(admin.info("memory")["used_memory"] / 0.85))
    with worker:
        until(lambda: any(SCARCE in line for line in warnings(worker)), "the warning", LIMIT)
    assert sum(SCARCE in line for line in warnings(worker)) == 1
