"""One worker on real RabbitMQ and Redis, run by the stock dramatiq command."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from jobkit.producer import Producer
from jobkit.store.base import JobKey, JobState
from jobkit.store.redis import RedisStore
from ledger import Ledger
from local_stack.redis import Redis
from probe_service import Probe
from worker_process import WorkerProcess


@pytest.fixture
def environment(vhost_url: str, redis_url: str) -> dict[str, str]:
    return {"JOBKIT_BROKER_URL": vhost_url, "JOBKIT_STORE_URL": redis_url, "JOBKIT_LEASE_SECONDS": "3"}


@pytest.fixture
def producer(vhost_url: str) -> Iterator[Producer]:
    with Producer(vhost_url) as built:
        yield built


@pytest.fixture
def worker(tmp_path: Path, environment: dict[str, str]) -> Iterator[WorkerProcess]:
    with WorkerProcess(tmp_path, environment) as started:
        yield started


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger")


def test_a_sent_job_runs_once_and_its_result_is_recorded(
    worker: WorkerProcess, producer: Producer, redis_url: str, ledger: Ledger
) -> None:
    receipt = producer.send(Probe(name="first"))
    ledger.wait_for("end", "first")
    store = RedisStore(redis_url)
    key = JobKey("probe", receipt.job_id)
    ledger.wait(lambda _: (record := store.record(key)) is not None and record.state is JobState.DONE)
    record = store.record(key)
    assert record is not None
    assert record.result == b'{"name":"first","attempt":1}'
    assert ledger.counts("start") == {"first": 1}
