"""What observers are told in a real worker: of jobs whose process was killed, of refusals, and before its end."""

from pathlib import Path

import pika
import pytest
from ledger import Ledger
from probe_service import Probe
from worker_process import WorkerProcess

from jobkit.producer import Producer
from jobkit.settings import EXIT_MISCONFIGURED


@pytest.fixture
def environment(vhost_url: str, redis_url: str) -> dict[str, str]:
    return {
        "JOBKIT_BROKER_URL": vhost_url,
        "JOBKIT_STORE_URL": redis_url,
        "JOBKIT_LEASE_SECONDS": "1.5",
        "JOBKIT_STORE_TIMEOUT_SECONDS": "0.2",
        "PROBE_OBSERVER": "writes",
    }


def told(ledger: Ledger, name: str) -> list[str]:
    return [
        one.event.removeprefix("told ") for one in ledger.entries() if one.event[:5] == "told " and one.name == name
    ]


def test_a_job_whose_worker_was_killed_and_a_message_that_cannot_be_read(
    tmp_path: Path, environment: dict[str, str], vhost_url: str
) -> None:
    worker = WorkerProcess(tmp_path, environment, supervised=True)
    with worker, Producer(vhost_url) as producer:
        killer = producer.send(Probe(name="killer", then="die", until_attempt=2)).job_id
        worker.ledger.wait(lambda ledger: "succeeded" in told(ledger, killer), what="the end of the killer")
        with pika.BlockingConnection(pika.URLParameters(vhost_url)) as connection:
            connection.channel().basic_publish("", "probe", b"{", pika.BasicProperties(message_id="half"))
        worker.ledger.wait(lambda ledger: told(ledger, "half") != [], what="the message that cannot be read")
    # What the killed process had not told yet is lost: at most once.
    assert told(worker.ledger, killer)[-3:] == ["stalled", "started", "succeeded"]
    assert told(worker.ledger, "half") == ["died"]


def test_a_worker_that_is_refused_tells_before_it_ends(
    tmp_path: Path, environment: dict[str, str], vhost_url: str
) -> None:
    with pika.BlockingConnection(pika.URLParameters(vhost_url)) as connection:
        connection.channel().queue_declare("probe", durable=True)
    worker = WorkerProcess(tmp_path, environment)
    try:
        worker.start(wait=False)
        assert worker.wait(30) == EXIT_MISCONFIGURED
    finally:
        worker.kill()
    assert told(worker.ledger, "topology") == ["error"]


def test_an_observer_that_hangs_does_not_hold_up_the_end_of_a_worker(
    tmp_path: Path, environment: dict[str, str], vhost_url: str
) -> None:
    worker = WorkerProcess(tmp_path, {**environment, "PROBE_OBSERVER": "hangs"}, threads=1)
    with worker, Producer(vhost_url) as producer:
        for name in ("first", "second"):
            producer.send(Probe(name=name))
        worker.ledger.wait_for("end", "first", "second")
        worker.ledger.wait(lambda ledger: ledger.entries("told succeeded") != [], what="the observer")
        assert worker.stop(30) == 0
    assert "observers did not return in 2 s" in worker.output()
    assert len(worker.ledger.entries("told succeeded")) == 1
