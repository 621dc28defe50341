"""Dead letters that come back: each runs once more, whatever it meets on its way, and however often it is delivered."""

from collections.abc import Iterator
from pathlib import Path

import pika
import pytest
from ledger import Ledger
from probe_service import Probe
from queues import depth, wait_until_empty
from worker_process import WorkerProcess

from jobkit.producer import Producer
from jobkit.store.base import JobKey, JobState
from jobkit.store.redis import RedisStore


@pytest.fixture
def worker(tmp_path: Path, vhost_url: str, redis_url: str) -> Iterator[WorkerProcess]:
    settings = {
        "JOBKIT_BROKER_URL": vhost_url,
        "JOBKIT_STORE_URL": redis_url,
        "JOBKIT_LEASE_SECONDS": "3",
        "JOBKIT_STORE_TIMEOUT_SECONDS": "0.5",
    }
    with WorkerProcess(tmp_path, settings) as started:
        yield started


@pytest.fixture
def store(redis_url: str) -> Iterator[RedisStore]:
    built = RedisStore(redis_url)
    yield built
    built.close()


def move(url: str) -> tuple[pika.BasicProperties, bytes]:
    """Publish the oldest dead letter to its queue as it is, as a shovel does, then take it off; return what it was."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        method, properties, body = channel.basic_get("probe.dlq")
        assert method is not None
        assert properties is not None
        assert body is not None
        deliver(url, properties, body)
        channel.basic_ack(method.delivery_tag)
    return properties, body


def deliver(url: str, properties: pika.BasicProperties, body: bytes) -> None:
    """Publish a message to the queue of the probe, with confirms."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_publish("", "probe", body, properties, mandatory=True)


def wait_for_death(ledger: Ledger, store: RedisStore, job_id: str, url: str, letters: int) -> None:
    """Return when there are so many dead letters, and the record of the job says that it is dead."""
    key = JobKey("probe", "probe", job_id)
    ledger.wait(
        lambda _: (
            depth(url, "probe.dlq") == letters
            and (record := store.record(key)) is not None
            and record.state is JobState.DEAD
        ),
        what=f"{letters} dead letters",
    )


def test_a_dead_letter_that_comes_back_while_its_job_runs_is_not_answered_with_the_death_that_follows(
    worker: WorkerProcess, producer: Producer, store: RedisStore, ledger: Ledger, vhost_url: str
) -> None:
    first = producer.send(Probe(name="first", then="permanent", once=True), key="invoice/17")
    wait_for_death(ledger, store, first.job_id, vhost_url, 1)
    producer.send(Probe(name="second", then="permanent", seconds=2), key="invoice/17")
    ledger.wait_for("start", "second")
    move(vhost_url)
    ledger.wait(lambda _: "job not run: deferred" in worker.output(), what="its deferral")
    wait_for_death(ledger, store, first.job_id, vhost_url, 1)
    ledger.wait_for("end", "first")
    assert ledger.counts("start") == {"first": 2, "second": 1}


def test_a_dead_letter_that_came_back_and_died_again_does_not_run_when_it_is_delivered_again(
    worker: WorkerProcess, producer: Producer, store: RedisStore, ledger: Ledger, vhost_url: str
) -> None:
    sent = producer.send(Probe(name="hopeless", then="permanent"))
    wait_for_death(ledger, store, sent.job_id, vhost_url, 1)
    moved = move(vhost_url)
    ledger.wait(lambda log: log.counts("start")["hopeless"] == 2, what="its second run")
    wait_for_death(ledger, store, sent.job_id, vhost_url, 1)
    deliver(vhost_url, *moved)  # as the broker does when the ack of the first delivery was lost
    producer.send(Probe(name="last"))
    ledger.wait_for("end", "last")
    wait_until_empty(vhost_url, "probe")
    assert worker.stop() == 0  # with what it holds in its hands
    assert ledger.counts("start")["hopeless"] == 2
    assert depth(vhost_url, "probe.dlq") == 1
