"""A worker that may ask the management API warns of policies that lose or delay jobs."""

import json
import time
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import pika
import pytest
from probe_service import Probe
from queues import wait_for_queue
from worker_process import WorkerProcess

from jobkit.broker.connection import ConnectionSettings
from jobkit.broker.policies import Policies
from jobkit.producer import Producer
from local_stack.ports import free_port
from local_stack.rabbitmq import RabbitMQ


def set_policy(rabbitmq: RabbitMQ, url: str, name: str, definition: dict[str, int], pattern: str = ".*") -> None:
    path = f"/api/policies/{quote(url.rsplit('/', 1)[1], safe='')}/{name}"
    rabbitmq.call("PUT", path, {"pattern": pattern, "definition": definition, "apply-to": "queues"})


@pytest.fixture
def policies(rabbitmq: RabbitMQ, vhost_url: str) -> Policies:
    with Producer(vhost_url) as producer:
        producer.send(Probe())  # makes the queue
    return Policies(rabbitmq.management_url, ConnectionSettings([vhost_url]))


def the_warning(policies: Policies, queues: int = 32) -> str:
    """The only line, once the management's figures have come, which takes it some seconds.

    Args:
        policies: Asks the management.
        queues: How many it names or counts: probe, probe.dlq, due.probe, jobkit.dlq and 28 levels.
    """
    deadline = time.monotonic() + 30
    lines: list[str] = []
    while not any(f"and {queues - 3} more)" in line for line in lines):  # it shows one queue after the other
        assert time.monotonic() < deadline, lines
        time.sleep(0.2)
        lines = policies.warnings(["probe"])
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("key", "value"),
    [("message-ttl", 2000), ("expires", 60_000), ("max-length", 10), ("max-length-bytes", 10_000)],
)
def test_a_policy_that_harms_jobs_is_named_with_what_it_does(
    policies: Policies, rabbitmq: RabbitMQ, vhost_url: str, key: str, value: int
) -> None:
    assert policies.warnings(["probe"]) == []
    set_policy(rabbitmq, vhost_url, "tidy", {key: value})
    line = the_warning(policies, queues=31 if key == "message-ttl" else 32)  # due.probe's own time to live is zero
    assert line.startswith(f"the RabbitMQ policy 'tidy' sets {key}={value}: ")
    assert ("(queues due.probe, " in line) == (key != "message-ttl")


def test_a_lower_delivery_limit_is_named(policies: Policies, rabbitmq: RabbitMQ, vhost_url: str) -> None:
    set_policy(rabbitmq, vhost_url, "strict", {"delivery-limit": 3})
    assert "delivery-limit=3" in the_warning(policies)


def test_policies_that_harm_nothing_of_ours_are_not_named(
    policies: Policies, rabbitmq: RabbitMQ, vhost_url: str
) -> None:
    with pika.BlockingConnection(pika.URLParameters(vhost_url)) as connection:
        connection.channel().queue_declare("cache", durable=True)
    set_policy(rabbitmq, vhost_url, "theirs", {"message-ttl": 1}, pattern="^cache$")
    set_policy(rabbitmq, vhost_url, "many", {"delivery-limit": 500}, pattern="^probe")
    path = f"/api/queues/{vhost_url.rsplit('/', 1)[1]}"
    deadline = time.monotonic() + 30
    while {"theirs", "many"} - {queue.get("policy") for queue in cast("list[Any]", rabbitmq.call("GET", path))}:
        assert time.monotonic() < deadline, "the policies were not seen"
        time.sleep(0.2)
    assert policies.warnings(["probe"]) == []


def test_a_worker_warns_of_a_policy(
    tmp_path: Path, rabbitmq: RabbitMQ, vhost_url: str, redis_url: str, policies: Policies
) -> None:
    set_policy(rabbitmq, vhost_url, "tidy", {"message-ttl": 3_600_000})
    settings = {
        "JOBKIT_BROKER_URL": vhost_url,
        "JOBKIT_STORE_URL": redis_url,
        "JOBKIT_MANAGEMENT_URL": rabbitmq.management_url,
    }
    with WorkerProcess(tmp_path, settings) as worker:
        wait_for_queue(vhost_url, "probe")
        worker.ledger.wait(lambda _: "message-ttl=3600000" in worker.output(), what="the warning")
        (event,) = [json.loads(line) for line in worker.output().splitlines() if "message-ttl" in line]
        assert event["level"] == "warning"


def test_a_management_api_that_does_not_answer_is_said_once_and_harms_nothing(
    tmp_path: Path, vhost_url: str, redis_url: str
) -> None:
    settings = {
        "JOBKIT_BROKER_URL": vhost_url,
        "JOBKIT_STORE_URL": redis_url,
        "JOBKIT_MANAGEMENT_URL": f"http://user:s3cret@127.0.0.1:{free_port()}",
    }
    with WorkerProcess(tmp_path, settings) as worker, Producer(vhost_url) as producer:
        worker.ledger.wait(lambda _: "policies cannot be checked" in worker.output(), what="the warning")
        producer.send(Probe(name="unharmed"))
        worker.ledger.wait_for("end", "unharmed")
        assert "s3cret" not in worker.output()
