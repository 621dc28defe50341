"""Short faults on real parts: nothing lost, nothing done twice. The long suite is ``make chaos``."""

import time
from pathlib import Path
from urllib.parse import quote

import pika
import pytest
from ledger import Ledger
from probe_service import Probe
from queues import wait_until_empty
from worker_process import WorkerProcess

from jobkit.producer import Producer
from local_stack.rabbitmq import RabbitMQ
from local_stack.redis import Redis

LEASE = 3


@pytest.fixture
def environment(vhost_url: str, redis_url: str) -> dict[str, str]:
    return {
        "JOBKIT_BROKER_URL": vhost_url,
        "JOBKIT_STORE_URL": redis_url,
        "JOBKIT_LEASE_SECONDS": str(LEASE),
        "JOBKIT_STORE_TIMEOUT_SECONDS": str(LEASE / 6),
    }


def test_a_worker_killed_in_mid_job_loses_no_job_and_repeats_only_what_it_was_doing(
    tmp_path: Path, environment: dict[str, str], producer: Producer, ledger: Ledger
) -> None:
    names = [f"job-{n}" for n in range(60)]
    with (
        WorkerProcess(tmp_path, environment, name="victim") as victim,
        WorkerProcess(tmp_path, environment, name="other"),
    ):
        producer.send_many(Probe(name=name, seconds=0.2) for name in names)
        ledger.wait(lambda log: len(log.entries("end")) >= 12, what="the first jobs")
        killed_at = time.time()
        victim.kill()
        ended = {entry.name: entry.at for entry in ledger.entries("end")}
        ledger.wait_for("end", *names, limit=40)
    # The kill may fall between an effect and its record: the "end" of a job was written, and nothing else said so.
    excused = {name for name, at in ended.items() if at > killed_at - 0.2}
    assert {name for name, count in ledger.counts("end").items() if count > 1} <= excused
    repeated = {name for name, count in ledger.counts("start").items() if count > 1}
    assert repeated.isdisjoint(ended.keys() - excused)
    assert len(repeated) <= 4, "a process with four threads was killed"


def test_a_broker_restarted_in_mid_run_loses_nothing_and_repeats_nothing(
    tmp_path: Path, environment: dict[str, str], producer: Producer, ledger: Ledger, rabbitmq: RabbitMQ
) -> None:
    names = [f"job-{n}" for n in range(80)]
    with WorkerProcess(tmp_path, environment, name="one"), WorkerProcess(tmp_path, environment, name="two"):
        producer.send_many(Probe(name=name, seconds=0.3) for name in names[:60])
        ledger.wait(lambda log: len(log.entries("end")) >= 8, what="the first jobs")
        rabbitmq.restart()
        producer.send_many(Probe(name=name) for name in names[60:])
        ledger.wait_for("end", *names, limit=60)
        wait_until_empty(environment["JOBKIT_BROKER_URL"], "probe")
    assert set(ledger.counts("end").values()) == {1}
    assert set(ledger.counts("start").values()) == {1}


def test_a_broker_killed_in_mid_run_loses_nothing_and_repeats_nothing(
    tmp_path: Path, environment: dict[str, str], producer: Producer, ledger: Ledger, rabbitmq: RabbitMQ
) -> None:
    names = [f"job-{n}" for n in range(60)]
    with WorkerProcess(tmp_path, environment):
        producer.send_many(Probe(name=name, seconds=0.4) for name in names)
        ledger.wait(lambda log: len(log.entries("end")) >= 8, what="the first jobs")
        time.sleep(2)  # RabbitMQ 3.10 forgets a quorum queue that is younger than a second when it is killed
        rabbitmq.kill()
        rabbitmq.start()
        ledger.wait_for("end", *names, limit=60)
        wait_until_empty(environment["JOBKIT_BROKER_URL"], "probe")
    assert set(ledger.counts("end").values()) == {1}
    assert set(ledger.counts("start").values()) == {1}


def test_a_retry_that_is_due_while_the_broker_is_down_is_not_lost(
    tmp_path: Path, environment: dict[str, str], producer: Producer, ledger: Ledger, rabbitmq: RabbitMQ
) -> None:
    with WorkerProcess(tmp_path, environment):
        names = [f"job-{n}" for n in range(8)]
        producer.send_many(Probe(name=name, seconds=2, then="fail", until_attempt=2) for name in names)
        ledger.wait(lambda log: len(log.entries("start")) >= 4, what="the first attempts")
        rabbitmq.stop()
        time.sleep(3)  # the attempts fail now, and there is no broker to take their retries
        rabbitmq.start()
        ledger.wait_for("end", *names, limit=60)
        wait_until_empty(environment["JOBKIT_BROKER_URL"], "probe")
    assert set(ledger.counts("end").values()) == {1}
    assert set(ledger.counts("start").values()) == {2}


def test_a_store_that_is_away_for_longer_than_a_lease_lets_no_duplicate_in(
    tmp_path: Path, environment: dict[str, str], producer: Producer, ledger: Ledger, redis_server: Redis
) -> None:
    names = [f"job-{n}" for n in range(4)]
    no_more_than_it_runs = {**environment, "PROBE_PREFETCH": "4"}
    with (
        WorkerProcess(tmp_path, no_more_than_it_runs, threads=4, name="one"),
        WorkerProcess(tmp_path, no_more_than_it_runs, threads=4, name="two") as two,
    ):
        for name in names:
            producer.send(Probe(name=name, seconds=12), key=name)
        ledger.wait(lambda log: len(log.entries("start")) == 4, what="the start of the jobs")
        redis_server.kill()
        for name in names:
            producer.send(Probe(name=name, seconds=12), key=name)
        ledger.wait(lambda _: "jobs wait for it" in two.output(), what="the duplicates' word that the store is away")
        time.sleep(4)  # longer than a lease: all of them have run out when the store is back
        redis_server.start()
        ledger.wait_for("end", *names)
        wait_until_empty(environment["JOBKIT_BROKER_URL"], "probe")
    assert set(ledger.counts("start").values()) == {1}


def test_jobs_that_end_while_the_store_is_away_run_once_though_their_messages_come_back(
    tmp_path: Path,
    environment: dict[str, str],
    producer: Producer,
    ledger: Ledger,
    rabbitmq: RabbitMQ,
    redis_server: Redis,
) -> None:
    names = [f"job-{n}" for n in range(16)]
    with WorkerProcess(tmp_path, environment, threads=16) as worker:
        producer.send_many(Probe(name=name, seconds=2) for name in names)
        ledger.wait(lambda log: len(log.entries("start")) == len(names), what="the start of the jobs")
        redis_server.kill()
        ledger.wait_for("end", *names)  # each thread waits with a result in its hand
        close_connections(rabbitmq)
        ledger.wait(lambda _: "taking messages from probe again" in worker.output(), what="the worker's word")
        time.sleep(LEASE)  # and all leases run out
        redis_server.start()
        wait_until_empty(environment["JOBKIT_BROKER_URL"], "probe")
    assert set(ledger.counts("start").values()) == {1}


def test_connections_closed_under_running_jobs_lose_nothing_and_repeat_nothing(
    tmp_path: Path, environment: dict[str, str], producer: Producer, ledger: Ledger, rabbitmq: RabbitMQ
) -> None:
    names = [f"job-{n}" for n in range(60)]
    with WorkerProcess(tmp_path, environment, name="one"), WorkerProcess(tmp_path, environment, name="two"):
        producer.send_many(Probe(name=name, seconds=0.5) for name in names)
        ledger.wait(lambda log: len(log.entries("end")) >= 8, what="the first jobs")
        closed = close_connections(rabbitmq)
        ledger.wait_for("end", *names, limit=60)
        wait_until_empty(environment["JOBKIT_BROKER_URL"], "probe")
    assert closed >= 4, "two workers with two connections each"
    assert set(ledger.counts("start").values()) == {1}
    assert set(ledger.counts("end").values()) == {1}


def test_a_queue_that_is_deleted_under_its_consumer_is_made_again(
    environment: dict[str, str], producer: Producer, ledger: Ledger, tmp_path: Path
) -> None:
    with WorkerProcess(tmp_path, environment) as worker:
        producer.send(Probe(name="before"))
        ledger.wait_for("end", "before")
        with pika.BlockingConnection(pika.URLParameters(environment["JOBKIT_BROKER_URL"])) as connection:
            connection.channel().queue_delete("probe")
        ledger.wait(lambda _: "taking messages from probe again" in worker.output(), what="the worker's word")
        producer.send(Probe(name="after"))
        ledger.wait_for("end", "after")


def close_connections(rabbitmq: RabbitMQ) -> int:
    """Close every connection through the management page, which learns of them a few seconds late."""
    deadline = time.monotonic() + 20
    closed = 0
    while closed < 4:
        assert time.monotonic() < deadline, "the management page shows no connections"
        connections = rabbitmq.call("GET", "/api/connections")
        assert isinstance(connections, list)
        for connection in connections:
            rabbitmq.call("DELETE", f"/api/connections/{quote(connection['name'])}")
            closed += 1
        time.sleep(0.1)
    return closed
