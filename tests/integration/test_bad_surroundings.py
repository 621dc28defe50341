"""A worker among things that are wrong: one clear line, no loss, no spinning."""

import json
import socket
import time
import uuid
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pika
import pytest
from ledger import Ledger
from probe_service import Probe
from queues import depth, message_body, wait_for_dead_letter, wait_for_queue
from worker_process import WorkerProcess

from jobkit.errors import BrokerUnavailable, MessageTooLarge
from jobkit.producer import Producer
from jobkit.store.base import GENERATION, Process
from jobkit.store.redis import RedisStore
from local_stack.mailcatcher import MailCatcher
from local_stack.ports import free_port
from local_stack.rabbitmq import RabbitMQ
from local_stack.redis import Redis

MISCONFIGURED = 78


@pytest.fixture
def environment(vhost_url: str, redis_url: str) -> dict[str, str]:
    return {"JOBKIT_BROKER_URL": vhost_url, "JOBKIT_STORE_URL": redis_url}


def refused(folder: Path, environment: dict[str, str], *, queues: tuple[str, ...] = ()) -> str:
    """What a worker says that gives up at its start; each problem must be one line."""
    worker = WorkerProcess(folder, environment, queues=queues)
    try:
        worker.start(wait=False)
        assert worker.wait(30) == MISCONFIGURED
        assert "Traceback" not in worker.output()
        return worker.output()
    finally:
        worker.kill()


def test_a_wrong_password_for_the_broker_ends_the_worker(tmp_path: Path, environment: dict[str, str]) -> None:
    url = environment["JOBKIT_BROKER_URL"].replace("guest:guest", "guest:wrong")
    output = refused(tmp_path, {**environment, "JOBKIT_BROKER_URL": url})
    assert "refused the user or password in JOBKIT_BROKER_URL" in output
    assert "wrong" not in output


def test_a_vhost_that_does_not_exist_ends_the_worker(tmp_path: Path, environment: dict[str, str]) -> None:
    output = refused(tmp_path, {**environment, "JOBKIT_BROKER_URL": environment["JOBKIT_BROKER_URL"] + "-missing"})
    assert "has no such vhost" in output


def test_a_vhost_that_the_user_may_not_use_ends_the_worker(
    tmp_path: Path, environment: dict[str, str], rabbitmq: RabbitMQ
) -> None:
    user = f"user-{uuid.uuid4().hex[:8]}"
    rabbitmq.call("PUT", f"/api/users/{user}", {"password": "of-its-own", "tags": ""})
    url = environment["JOBKIT_BROKER_URL"].replace("guest:guest", f"{user}:of-its-own")
    assert "may not use it" in refused(tmp_path, {**environment, "JOBKIT_BROKER_URL": url})


def test_a_port_that_speaks_something_else_ends_the_worker(
    tmp_path: Path, environment: dict[str, str], mail_catcher: MailCatcher
) -> None:
    url = f"amqp://guest:guest@127.0.0.1:{mail_catcher.ports['SMTP']}/"
    assert "is no AMQP broker" in refused(tmp_path, {**environment, "JOBKIT_BROKER_URL": url})


def test_a_broker_that_has_too_many_connections_for_now_is_waited_for(
    tmp_path: Path, environment: dict[str, str], vhost_url: str, rabbitmq: RabbitMQ, ledger: Ledger
) -> None:
    limit = f"/api/vhost-limits/{vhost_url.rsplit('/', 1)[1]}/max-connections"
    rabbitmq.call("PUT", limit, {"value": 0})
    with WorkerProcess(tmp_path, environment) as worker:
        ledger.wait(lambda _: "trying again until it answers" in worker.output(), what="the worker's word")
        assert "connection limit (0) is reached" in worker.output()
        rabbitmq.call("DELETE", limit)
        wait_for_queue(vhost_url, "probe")
        with Producer(vhost_url) as producer:
            producer.send(Probe(name="patient"))
        ledger.wait_for("end", "patient")


def test_a_setting_that_is_wrong_is_named(tmp_path: Path, environment: dict[str, str]) -> None:
    output = refused(tmp_path, {**environment, "JOBKIT_LEASE_SECONDS": "soon", "PROBE_THREADS": "0"})
    assert "JOBKIT_LEASE_SECONDS: " in output
    output = refused(tmp_path, {**environment, "PROBE_THREADS": "0"})
    assert "PROBE_THREADS: " in output


def test_a_default_password_is_refused_in_production(tmp_path: Path, environment: dict[str, str]) -> None:
    assert "JOBKIT_BROKER_URL: a default password that everybody knows" in refused(
        tmp_path, {**environment, "JOBKIT_ENVIRONMENT": "production"}
    )


def test_a_worker_beside_one_of_another_version_of_its_service_ends_until_that_has_stopped(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    other = Process(uuid.uuid4().hex, "probe", "host-a", 17, ("probe",), GENERATION - 1, 0)
    with closing(RedisStore(environment["JOBKIT_STORE_URL"])) as store:
        store.renew([], timedelta(minutes=5), other)
        output = refused(tmp_path, environment)
        assert f"a worker of probe uses generation {GENERATION - 1} of messages and records (process 17" in output
        assert f"and this one generation {GENERATION}: they must not run together. Stop all workers of probe" in output
        store.declare_dead(other.name, other.service, ())
    with WorkerProcess(tmp_path, environment, name="later"):
        pass


def test_a_time_limit_above_the_stop_grace_is_refused(tmp_path: Path, environment: dict[str, str]) -> None:
    settings = {**environment, "PROBE_STOP_GRACE_SECONDS": "30", "PROBE_TIME_LIMIT": "600"}
    output = refused(tmp_path, settings)
    assert "PROBE_STOP_GRACE_SECONDS: 30 s is too short for probe" in output
    assert "605" in output


@pytest.mark.parametrize("queue", ["probe.high", "probe"])
def test_a_time_limit_above_the_stop_grace_is_refused_by_a_worker_of_any_one_lane(
    tmp_path: Path, environment: dict[str, str], queue: str
) -> None:
    settings = {**environment, "PROBE_STOP_GRACE_SECONDS": "30", "PROBE_TIME_LIMIT": "600"}
    output = refused(tmp_path, settings, queues=(queue,))
    assert "PROBE_STOP_GRACE_SECONDS: 30 s is too short for probe" in output


@pytest.mark.parametrize(
    ("queues", "unknown"),
    [(("prob",), "prob"), (("probe", "probe.hgih"), "probe.hgih"), (("probe,probe.high",), "probe,probe.high")],
    ids=["a queue", "a lane beside a queue that is right", "two in one"],
)
def test_a_queue_that_the_service_does_not_have_ends_the_worker_with_the_queues_that_it_has(
    tmp_path: Path, environment: dict[str, str], queues: tuple[str, ...], unknown: str
) -> None:
    output = refused(tmp_path, environment, queues=queues)
    assert f"--queue {unknown}: there is no such queue" in output
    assert "probe, probe.high" in output
    assert "is ready for action" not in output


def test_a_record_that_would_expire_before_the_last_retry_is_refused(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    output = refused(tmp_path, {**environment, "JOBKIT_RECORD_TTL_SECONDS": "60"})
    assert "JOBKIT_RECORD_TTL_SECONDS: 60 s is shorter" in output


def test_a_worker_that_starts_before_its_broker_waits_for_it(
    tmp_path: Path, environment: dict[str, str], rabbitmq: RabbitMQ, ledger: Ledger
) -> None:
    rabbitmq.stop()
    with WorkerProcess(tmp_path, environment) as worker:
        ledger.wait(lambda _: "trying again until it answers" in worker.output(), what="the worker's word")
        brief = Producer(environment["JOBKIT_BROKER_URL"], timeout=0.5)
        with brief, pytest.raises(BrokerUnavailable, match="cannot be reached"):
            brief.send(Probe(name="too early"))
        rabbitmq.start()
        with Producer(environment["JOBKIT_BROKER_URL"], timeout=20) as producer:
            producer.send(Probe(name="in time"))
        ledger.wait_for("end", "in time")
        assert worker.output().count("trying again until it answers") == 1
    assert ledger.counts("start") == {"in time": 1}


def test_a_worker_that_starts_before_its_store_waits_for_it(
    tmp_path: Path, environment: dict[str, str], redis_server: Redis, ledger: Ledger
) -> None:
    redis_server.stop()
    with WorkerProcess(tmp_path, environment) as worker, Producer(environment["JOBKIT_BROKER_URL"]) as producer:
        producer.send(Probe(name="patient"))
        ledger.wait(lambda _: "jobs wait for it" in worker.output(), what="the worker's word")
        redis_server.start()
        ledger.wait_for("end", "patient")
    assert ledger.counts("start") == {"patient": 1}


def test_a_producer_without_a_broker_raises_in_time() -> None:
    started = time.monotonic()
    producer = Producer(f"amqp://guest:guest@127.0.0.1:{free_port()}/", timeout=1)
    with producer, pytest.raises(BrokerUnavailable, match="JOBKIT_BROKER_URL"):
        producer.send(Probe())
    assert time.monotonic() - started < 10


def test_a_producer_before_any_worker_makes_the_queue(vhost_url: str) -> None:
    with Producer(vhost_url) as producer:
        producer.send(Probe(name="early"))
    assert depth(vhost_url, "probe") == 1


def test_a_message_of_20_mib_is_refused_at_the_producer(vhost_url: str) -> None:
    with Producer(vhost_url) as producer, pytest.raises(MessageTooLarge, match="object storage"):
        producer.send(Probe(name="x" * 20 * 2**20))


def test_a_message_of_15_mib_from_elsewhere_is_a_dead_letter(
    tmp_path: Path, environment: dict[str, str], ledger: Ledger
) -> None:
    with WorkerProcess(tmp_path, environment):
        url = environment["JOBKIT_BROKER_URL"]
        wait_for_queue(url, "probe")
        body = message_body(kwargs={"name": "x" * 15 * 2**20})  # RabbitMQ 4.x itself refuses more than 16
        with pika.BlockingConnection(pika.URLParameters(url)) as connection:
            connection.channel().basic_publish("", "probe", body)
        _, failure, kept = wait_for_dead_letter(url, "probe")
        assert failure.reason == "too_large"
        assert json.loads(kept)["kwargs"]["name"][:2] == "xx"
        assert len(kept) == len(body)
    assert ledger.entries("start") == []


def test_what_is_no_broker_is_said_to_be_none(tmp_path: Path, environment: dict[str, str], redis_server: Redis) -> None:
    port = redis_server.url.rsplit(":", 1)[1].split("/")[0]
    worker = WorkerProcess(tmp_path, {**environment, "JOBKIT_BROKER_URL": f"amqp://guest:guest@127.0.0.1:{port}/"})
    with worker:
        worker.ledger.wait(lambda _: "JOBKIT_BROKER_URL" in worker.output(), what="the worker's word")
        with socket.create_connection(("127.0.0.1", int(port)), 5):
            pass
