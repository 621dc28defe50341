"""Exchanges and queues across versions and permissions: jobs arrive whatever has been made, by whomever."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, urlsplit
from uuid import uuid4

import pika
import pika.exceptions
import pytest
from in_process import Ours, until
from ledger import Ledger
from probe_service import Probe
from queues import depth
from worker_process import WorkerProcess

from jobkit.broker import ladder, topology
from jobkit.broker.connection import ConnectionSettings
from jobkit.broker.declarations import declare
from jobkit.broker.definitions import definitions
from jobkit.broker.due import declare_exchange
from jobkit.errors import AccessRefused, Unroutable
from jobkit.producer import Producer
from local_stack.rabbitmq import RabbitMQ

QUEUES = ["probe", "probe.high"]

SOON = timedelta(seconds=1)


def vhost_of(url: str) -> str:
    return quote(urlsplit(url).path.removeprefix("/"), safe="")


@contextmanager
def user(rabbitmq: RabbitMQ, url: str, *, configure: str = "^$", write: str = ".*") -> Iterator[str]:
    """The address of the virtual host for a user with these permissions."""
    name = f"user-{uuid4().hex[:8]}"
    rabbitmq.call("PUT", f"/api/users/{name}", {"password": "s3cret", "tags": ""})
    permissions = {"configure": configure, "write": write, "read": ".*"}
    rabbitmq.call("PUT", f"/api/permissions/{vhost_of(url)}/{name}", permissions)
    yield url.replace("guest:guest", f"{name}:s3cret")
    rabbitmq.call("DELETE", f"/api/users/{name}")


def declare_all(url: str) -> str:
    with ConnectionSettings([url]).open() as connection:
        return declare(connection, QUEUES)


def declare_as_before(url: str) -> None:
    """Make what the version before due queues and exchanges for jobs made."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        ladder.declare_ladder(channel)
        for queue in QUEUES:
            topology.declare_queue(channel, queue)
            ladder.bind(channel, queue)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "default exchange instead" in record.getMessage()]


# ---- the exchange for jobs


def test_jobs_go_through_the_exchange_of_their_service(
    vhost_url: str, rabbitmq: RabbitMQ, caplog: pytest.LogCaptureFixture
) -> None:
    declare_all(vhost_url)
    with user(rabbitmq, vhost_url, write=r"^probe\.jobs$") as url, Producer(url, timeout=30) as producer:
        producer.send(Probe())
        producer.send(Probe(), lane="high")
    assert [depth(vhost_url, queue) for queue in QUEUES] == [1, 1]
    assert told(caplog) == []


def test_a_first_send_to_a_new_broker_makes_the_exchange_and_tells_nothing(
    vhost_url: str, rabbitmq: RabbitMQ, caplog: pytest.LogCaptureFixture
) -> None:
    with Producer(vhost_url, timeout=30) as producer:
        producer.send(Probe())
    with user(rabbitmq, vhost_url, write=r"^probe\.jobs$") as url, Producer(url, timeout=30) as producer:
        producer.send(Probe())
    assert depth(vhost_url, "probe") == 2
    assert told(caplog) == []


@pytest.mark.parametrize("configure", [".*", "^$"], ids=["may declare", "may not declare"])
def test_a_new_producer_reaches_old_workers_only(
    vhost_url: str, rabbitmq: RabbitMQ, caplog: pytest.LogCaptureFixture, configure: str
) -> None:
    declare_as_before(vhost_url)
    with user(rabbitmq, vhost_url, configure=configure) as url, Producer(url, timeout=30) as producer:
        sent = producer.send_many(Probe() for _ in range(500))
        producer.send_many((Probe() for _ in range(50)), lane="high")
        producer.send(Probe(), delay=SOON)
        producer.send(Probe(), delay=SOON)
    assert sent.accepted == 500
    until(lambda: depth(vhost_url, "probe") == 502, "each job arrives once")
    assert depth(vhost_url, "probe.high") == 50
    assert len(told(caplog)) == 1
    assert not [r for r in caplog.records if r.name == "pika.channel" and "'probe.jobs'" in r.getMessage()]
    missing = [record for record in caplog.records if "RabbitMQ has no" in record.getMessage()]
    assert len(missing) == (configure == "^$")


def test_a_queue_without_a_binding_is_reached(
    vhost_url: str, rabbitmq: RabbitMQ, caplog: pytest.LogCaptureFixture
) -> None:
    declare_all(vhost_url)
    with pika.BlockingConnection(pika.URLParameters(vhost_url)) as connection:
        connection.channel().queue_unbind("probe", "probe.jobs", "probe")
    with user(rabbitmq, vhost_url) as url, Producer(url, timeout=30) as producer:
        producer.send_many(Probe() for _ in range(200))
    assert depth(vhost_url, "probe") == 200
    assert len(told(caplog)) == 1


def test_permissions_that_name_the_default_exchange_alone_are_enough(
    vhost_url: str, rabbitmq: RabbitMQ, caplog: pytest.LogCaptureFixture
) -> None:
    declare_all(vhost_url)
    write = r"^(amq\.default|jobkit\.delay\..*)$"
    with user(rabbitmq, vhost_url, write=write) as url, Producer(url, timeout=30) as producer:
        producer.send_many(Probe() for _ in range(200))
        producer.send(Probe(), delay=SOON)
    until(lambda: depth(vhost_url, "probe") == 201, "each job arrives once")
    assert len(told(caplog)) == 1


def test_a_user_who_may_write_nowhere_is_told_of_the_exchange(vhost_url: str, rabbitmq: RabbitMQ) -> None:
    declare_all(vhost_url)
    refused = pytest.raises(AccessRefused, match=r"access to exchange 'probe\.jobs'")
    with user(rabbitmq, vhost_url, write="^$") as url, Producer(url, timeout=30) as producer, refused:
        producer.send(Probe())


# ---- declarations


def test_what_is_printed_is_what_is_declared(vhost_url: str, rabbitmq: RabbitMQ) -> None:
    declare_all(vhost_url)
    printed = definitions(QUEUES, "any")
    for kind in ("exchanges", "queues", "bindings"):  # one by one: RabbitMQ 4.3 exports no internal exchanges
        kept = cast("list[dict[str, Any]]", rabbitmq.call("GET", f"/api/{kind}/{vhost_of(vhost_url)}"))
        ours = [{name: value for name, value in one.items() if name != "vhost"} for one in printed[kind]]
        theirs = [{name: one.get(name) for name in ours[0]} for one in kept if not _is_its_own(one)]
        assert sorted(map(as_text, ours)) == sorted(map(as_text, theirs))


def _is_its_own(one: dict[str, Any]) -> bool:
    """Whether it is RabbitMQ's own: the default exchange, those of each virtual host, the bindings of the first."""
    name = str(one["source"] if "source" in one else one["name"])
    return not name or name.startswith("amq.")


def as_text(fields: dict[str, Any]) -> str:
    return json.dumps(fields, sort_keys=True)


def test_imported_definitions_are_enough_for_who_declares_never(
    vhost_url: str, redis_url: str, rabbitmq: RabbitMQ, tmp_path: Path, ledger: Ledger
) -> None:
    rabbitmq.call("POST", f"/api/definitions/{vhost_of(vhost_url)}", definitions(QUEUES, "ignored"))
    with user(rabbitmq, vhost_url) as url:
        settings = {"JOBKIT_BROKER_URL": url, "JOBKIT_STORE_URL": redis_url, "JOBKIT_DECLARE": "never"}
        with WorkerProcess(tmp_path, settings) as worker, Producer(url, timeout=30, declare="never") as producer:
            producer.send(Probe(name="now"))
            producer.send(Probe(name="delayed"), delay=SOON)
            producer.send(Probe(name="retried", then="fail", until_attempt=2))
            for name in ("now", "delayed", "retried"):
                ledger.wait_for("end", name)
            warned = [line for line in worker.output().splitlines() if '"warning"' in line]
    assert not [line for line in warned if "RabbitMQ has no" in line or "may not declare" in line]


def test_who_declares_never_makes_nothing(vhost_url: str, redis_url: str, rabbitmq: RabbitMQ, tmp_path: Path) -> None:
    settings = {"JOBKIT_BROKER_URL": vhost_url, "JOBKIT_STORE_URL": redis_url, "JOBKIT_DECLARE": "never"}
    worker = WorkerProcess(tmp_path, settings)
    try:
        worker.start(wait=False)
        assert worker.wait(30) == 78, worker.output()
    finally:
        worker.kill()
    assert "RabbitMQ has no exchange 'jobkit.delivery', and JOBKIT_DECLARE=never" in worker.output()
    with Producer(vhost_url, timeout=30, declare="never") as producer:
        for delay in (None, SOON):
            with pytest.raises(Unroutable, match="JOBKIT_DECLARE=never: import the definitions"):
                producer.send(Probe(), delay=delay)
    with pika.BlockingConnection(pika.URLParameters(vhost_url)) as connection:
        for name in ("probe", "jobkit.delay.00", "due.probe"):
            with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="NOT_FOUND"):
                connection.channel().queue_declare(name, passive=True)


def test_bindings_that_were_lost_are_made_again_after_a_connection_was(vhost_url: str, redis_url: str) -> None:
    ours = Ours(vhost_url, redis_url)
    with ours.working():
        ours.send("first", delay=1)
        until(lambda: ours.ends == ["first"], "delayed jobs arrive")
        with pika.BlockingConnection(pika.URLParameters(vhost_url)) as connection:
            channel = connection.channel()
            channel.queue_unbind("work", "work.jobs", "work")
            channel.exchange_unbind("jobkit.due", "jobkit.delivery", f"{'*.' * ladder.LEVELS}due.#")
            # The consumer is cancelled by the deletion, and comes back to a new queue.
            channel.queue_delete("work")
        until(lambda: exists(vhost_url, "work"), "the worker makes its queue again")
        ours.send("second", delay=1)
        ours.send("third")
        until(lambda: set(ours.ends) == {"first", "second", "third"}, "both jobs arrive")
    assert depth(vhost_url, "jobkit.dlq") == 0


def exists(url: str, queue: str) -> bool:
    try:
        depth(url, queue)
    except pika.exceptions.ChannelClosedByBroker:
        return False
    return True


def test_clients_cannot_publish_to_the_exchange_of_the_due_queues(vhost_url: str) -> None:
    with pika.BlockingConnection(pika.URLParameters(vhost_url)) as connection:
        channel = connection.channel()
        ladder.declare_ladder(channel)
        declare_exchange(channel)
        channel.confirm_delivery()
        with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="internal"):
            channel.basic_publish("jobkit.due", "due.probe", b"")
