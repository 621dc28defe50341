"""Dead letters that come back: each runs once more, whatever it meets on its way, and however often it is delivered."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import pika
import pytest
from in_process import until
from ledger import Ledger
from probe_service import Probe
from queues import depth, wait_until_empty
from worker_process import WorkerProcess

from jobkit.children import child_id
from jobkit.deadletters import Failure, sent_again
from jobkit.errors import SendRefused
from jobkit.producer import Producer
from jobkit.store.base import JobKey, JobState
from jobkit.store.redis import RedisStore
from local_stack.rabbitmq import RabbitMQ


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


Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def send_again(worker: WorkerProcess) -> Command:
    """Send the dead letters of the probe again by the command."""

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "jobkit.cli", "dead-letters", "probe", "--send-again", *arguments]
        return subprocess.run(command, env=worker.environment, capture_output=True, text=True, check=False, timeout=60)

    return run


def wait_for_runs(ledger: Ledger, name: str, count: int) -> None:
    """Return once so many runs of a job have begun."""
    ledger.wait(lambda log: log.counts("start")[name] == count, what=f"run {count} of {name}")


def letter_of(url: str, job_id: str, *, take: bool = False) -> tuple[pika.BasicProperties, bytes]:
    """Return a job's dead letter; with ``take``, take it off."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        while True:
            method, properties, body = channel.basic_get("probe.dlq")
            assert method is not None
            assert properties is not None
            assert body is not None
            if properties.message_id == job_id:
                if take:
                    channel.basic_ack(method.delivery_tag)
                return properties, body


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


@pytest.mark.parametrize("by", ["a shovel", "the command"])
def test_a_dead_letter_that_comes_back_while_its_job_runs_is_not_answered_with_the_death_that_follows(
    worker: WorkerProcess,
    producer: Producer,
    store: RedisStore,
    ledger: Ledger,
    vhost_url: str,
    send_again: Command,
    by: str,
) -> None:
    first = producer.send(Probe(name="first", then="permanent", once=True), key="invoice/17")
    wait_for_death(ledger, store, first.job_id, vhost_url, 1)
    producer.send(Probe(name="second", then="permanent", seconds=4), key="invoice/17")
    ledger.wait_for("start", "second")
    if by == "a shovel":
        move(vhost_url)
    else:
        assert send_again().returncode == 0
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
    wait_for_runs(ledger, "hopeless", 2)
    wait_for_death(ledger, store, sent.job_id, vhost_url, 1)
    deliver(vhost_url, *moved)  # as the broker does when the ack of the first delivery was lost
    producer.send(Probe(name="last"))
    ledger.wait_for("end", "last")
    wait_until_empty(vhost_url, "probe")
    assert worker.stop() == 0  # with what it holds in its hands
    assert ledger.counts("start")["hopeless"] == 2
    assert depth(vhost_url, "probe.dlq") == 1


def test_the_command_sends_again_what_is_of_one_kind_and_each_runs_once_however_often_it_is_published(
    worker: WorkerProcess,
    producer: Producer,
    store: RedisStore,
    ledger: Ledger,
    vhost_url: str,
    send_again: Command,
) -> None:
    hopeless = producer.send(Probe(name="hopeless", then="permanent"))
    other = producer.send(Probe(name="other", then="fail"))
    wait_for_death(ledger, store, other.job_id, vhost_url, 2)
    wait_for_death(ledger, store, hopeless.job_id, vhost_url, 2)
    kept = letter_of(vhost_url, hopeless.job_id)
    kind = Failure.from_headers(kept[0].headers).fingerprint
    for number in (1, 2):
        if number == 2:  # as where the workers are those of version 0.1
            with pika.BlockingConnection(pika.URLParameters(vhost_url)) as connection:
                connection.channel().exchange_delete("probe.jobs")
        done = send_again("--fingerprint", kind, "--json")
        assert (done.returncode, done.stderr) == (0, "sent again: 1 of 2\n")
        assert [letter["job_id"] for letter in json.loads(done.stdout)] == [hopeless.job_id]
        wait_for_runs(ledger, "hopeless", 1 + number)
        wait_for_death(ledger, store, hopeless.job_id, vhost_url, 2)
        record = store.record(JobKey("probe", "probe", hopeless.job_id))
        assert record is not None
        assert record.round == number
    # As if the first command had been killed between its publication and its ack, and somebody had repeated it.
    body, headers = sent_again(kept[1], kept[0].headers)
    kept[0].headers = headers
    deliver(vhost_url, kept[0], body)
    producer.send(Probe(name="last"))
    ledger.wait_for("end", "last")
    wait_until_empty(vhost_url, "probe")
    assert worker.stop() == 0
    assert ledger.counts("start") == {"hopeless": 3, "other": 3, "last": 1}
    died = letter_of(vhost_url, hopeless.job_id)
    assert json.loads(died[1])["options"] == {**json.loads(kept[1])["options"], "job_round": 2}
    assert Failure.from_headers(died[0].headers).round == 2


def test_a_dead_letter_whose_queue_is_full_stays(
    worker: WorkerProcess,
    producer: Producer,
    store: RedisStore,
    ledger: Ledger,
    vhost_url: str,
    rabbitmq: RabbitMQ,
    send_again: Command,
) -> None:
    sent = producer.send(Probe(name="hopeless", then="permanent"))
    wait_for_death(ledger, store, sent.job_id, vhost_url, 1)
    assert worker.stop() == 0
    policy = f"/api/policies/{quote(urlsplit(vhost_url).path[1:], safe='')}/full"
    rabbitmq.call("PUT", policy, {"pattern": "^probe$", "definition": {"max-length": 1}, "apply-to": "queues"})
    # A quorum queue takes some more than its limit.
    until(lambda: not is_taken(producer), "the queue is full")
    done = send_again()
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("sent again: 0 of 1\nthe queue 'probe' takes no messages now")
    assert depth(vhost_url, "probe.dlq") == 1


def is_taken(producer: Producer) -> bool:
    """Send a job; whether its queue has taken it."""
    try:
        producer.send(Probe(name="filler"))
    except SendRefused:
        return False
    return True


def test_a_dead_letter_whose_queue_is_gone_stays(
    worker: WorkerProcess, producer: Producer, store: RedisStore, ledger: Ledger, vhost_url: str, send_again: Command
) -> None:
    sent = producer.send(Probe(name="hopeless", then="permanent"))
    wait_for_death(ledger, store, sent.job_id, vhost_url, 1)
    assert worker.stop() == 0
    with pika.BlockingConnection(pika.URLParameters(vhost_url)) as connection:
        connection.channel().queue_delete("probe")
    done = send_again()
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("sent again: 0 of 1\nthere is no queue 'probe'")
    assert depth(vhost_url, "probe.dlq") == 1


def test_the_children_of_a_dead_letter_that_is_sent_again_run_again_if_they_are_dead_too(
    worker: WorkerProcess, producer: Producer, store: RedisStore, ledger: Ledger, vhost_url: str, send_again: Command
) -> None:
    parent = producer.send(Probe(name="parent", children=1, children_then="permanent", then="fail"))
    child = child_id(JobKey("probe", "probe", parent.job_id), Probe(), 1)
    wait_for_death(ledger, store, parent.job_id, vhost_url, 2)
    assert ledger.counts("start") == {"parent": 3, "parent/0": 1}, "a parent that is retried leaves the child dead"
    letter_of(vhost_url, child, take=True)
    assert send_again().returncode == 0
    wait_for_runs(ledger, "parent", 6)
    wait_for_death(ledger, store, parent.job_id, vhost_url, 2)
    wait_until_empty(vhost_url, "probe")
    assert ledger.counts("start") == {"parent": 6, "parent/0": 2}
