"""One worker on real RabbitMQ and Redis, run by the stock dramatiq command."""

import json
import socket
import time
from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pika
import pytest
from ledger import Ledger
from probe_service import Probe
from queues import message_body, wait_for_dead_letter, wait_for_queue, wait_until_empty
from worker_process import WorkerProcess

from jobkit.producer import Producer
from jobkit.store.base import JobKey, JobState
from jobkit.store.redis import RedisStore


@pytest.fixture
def environment(vhost_url: str, redis_url: str) -> dict[str, str]:
    return {
        "JOBKIT_BROKER_URL": vhost_url,
        "JOBKIT_STORE_URL": redis_url,
        "JOBKIT_LEASE_SECONDS": "3",
        "JOBKIT_STORE_TIMEOUT_SECONDS": "0.5",
    }


@pytest.fixture
def worker(tmp_path: Path, environment: dict[str, str]) -> Iterator[WorkerProcess]:
    with WorkerProcess(tmp_path, environment) as started:
        yield started


def test_a_sent_job_runs_once_and_its_result_is_recorded(
    worker: WorkerProcess, producer: Producer, redis_url: str, ledger: Ledger
) -> None:
    receipt = producer.send(Probe(name="first"))
    ledger.wait_for("end", "first")
    store = RedisStore(redis_url)
    key = JobKey("probe", "probe", receipt.job_id)
    ledger.wait(lambda _: (record := store.record(key)) is not None and record.state is JobState.DONE)
    record = store.record(key)
    assert record is not None
    assert record.result == b'{"name":"first","attempt":1}'
    assert ledger.counts("start") == {"first": 1}


def test_a_failed_job_is_retried_until_it_succeeds(worker: WorkerProcess, producer: Producer, ledger: Ledger) -> None:
    producer.send(Probe(name="flaky", then="fail", until_attempt=3))
    ledger.wait_for("end", "flaky")
    starts = ledger.entries("start")
    assert [entry.attempt for entry in starts] == [1, 2, 3]
    assert all(later.at - earlier.at >= 0.9 for earlier, later in pairwise(starts))


def test_a_job_that_used_up_its_attempts_is_a_dead_letter_with_its_story(
    worker: WorkerProcess, producer: Producer, ledger: Ledger, vhost_url: str
) -> None:
    receipt = producer.send(Probe(name="hopeless", then="fail"))
    properties, failure, body = wait_for_dead_letter(vhost_url, "probe")
    assert ledger.counts("start")["hopeless"] == 3
    assert properties.message_id == receipt.job_id
    assert json.loads(body)["kwargs"]["name"] == "hopeless"
    assert (failure.reason, failure.type, failure.message) == ("attempts_exhausted", "TransientError", "told to fail")
    assert failure.attempts == 3
    assert failure.queue == "probe"
    assert "_misbehave" in failure.traceback
    assert failure.sent_at <= failure.first_failed_at < failure.died_at
    assert failure.host == socket.gethostname()


def test_a_permanent_error_is_not_retried(
    worker: WorkerProcess, producer: Producer, ledger: Ledger, vhost_url: str
) -> None:
    producer.send(Probe(name="never", then="permanent"))
    _, failure, _ = wait_for_dead_letter(vhost_url, "probe")
    assert failure.reason == "permanent"
    assert ledger.counts("start")["never"] == 1


def test_a_snooze_uses_up_no_attempt(worker: WorkerProcess, producer: Producer, ledger: Ledger) -> None:
    producer.send(Probe(name="later", then="snooze"))
    ledger.wait(lambda log: log.counts("start")["later"] >= 4)
    assert {entry.attempt for entry in ledger.entries("start")} == {1}


def test_the_same_key_runs_once(worker: WorkerProcess, producer: Producer, ledger: Ledger, vhost_url: str) -> None:
    receipts = {producer.send(Probe(name="invoice"), key="invoice/17").job_id for _ in range(20)}
    producer.send(Probe(name="last"))
    ledger.wait_for("end", "invoice", "last")
    wait_until_empty(vhost_url, "probe")
    assert len(receipts) == 1
    assert ledger.counts("start")["invoice"] == 1


def test_a_delayed_job_waits_in_the_broker(worker: WorkerProcess, producer: Producer, ledger: Ledger) -> None:
    sent = time.time()
    producer.send(Probe(name="delayed"), delay=timedelta(seconds=3))
    producer.send(Probe(name="now"))
    ledger.wait_for("end", "now", "delayed")
    at = {entry.name: entry.at - sent for entry in ledger.entries("start")}
    assert at["now"] < 1.5
    assert 3 <= at["delayed"] < 5


def test_children_of_a_repeated_run_are_the_same_jobs(
    worker: WorkerProcess, producer: Producer, ledger: Ledger, vhost_url: str
) -> None:
    producer.send(Probe(name="parent", children=2, then="fail", until_attempt=2))
    ledger.wait_for("end", "parent", "parent/0", "parent/1")
    wait_until_empty(vhost_url, "probe")
    counts = ledger.counts("start")
    assert counts == {"parent": 2, "parent/0": 1, "parent/1": 1}


def test_a_job_over_its_time_limit_is_interrupted_and_the_thread_lives(
    tmp_path: Path, environment: dict[str, str], producer: Producer, ledger: Ledger
) -> None:
    with WorkerProcess(tmp_path, {**environment, "PROBE_TIME_LIMIT": "1"}, threads=1) as worker:
        producer.send(Probe(name="stuck", then="hang", until_attempt=2))
        ledger.wait_for("end", "stuck")
        producer.send(Probe(name="after"))
        ledger.wait_for("end", "after")
        assert "TimeLimitExceeded" in worker.output()
    assert ledger.counts("start")["stuck"] == 2


def test_each_lane_is_served(worker: WorkerProcess, producer: Producer, ledger: Ledger) -> None:
    assert producer.send(Probe(name="urgent"), lane="high").queue == "probe.high"
    ledger.wait_for("end", "urgent")


def test_a_plain_amqp_client_sends_a_job(worker: WorkerProcess, vhost_url: str, ledger: Ledger) -> None:
    wait_for_queue(vhost_url, "probe")
    body = message_body(kwargs={"name": "plain"}, queue_name="whatever", options={"eta": 99999999999999})
    with pika.BlockingConnection(pika.URLParameters(vhost_url)) as connection:
        connection.channel().basic_publish("", "probe", body)
    ledger.wait_for("end", "plain")
