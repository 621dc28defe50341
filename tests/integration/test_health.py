"""What the health check says of a worker on a real RabbitMQ: unhealthy if it does not work, and not otherwise."""

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ledger import Ledger
from probe_service import Probe
from queues import wait_for_queue
from worker_process import WorkerProcess

from jobkit.middleware.sign_of_life import complaints
from jobkit.producer import Producer
from local_stack.rabbitmq import RabbitMQ

STALL = 4.0  # seconds


@pytest.fixture
def start(tmp_path: Path, vhost_url: str, redis_url: str) -> Callable[..., WorkerProcess]:
    def make(**options: object) -> WorkerProcess:
        environment = {
            "JOBKIT_BROKER_URL": vhost_url,
            "JOBKIT_STORE_URL": redis_url,
            "JOBKIT_HEALTH_FOLDER": str(tmp_path / "health"),
            "JOBKIT_HEALTH_STALL_SECONDS": str(STALL),
        }
        return WorkerProcess(tmp_path, environment, **options)  # type: ignore[arg-type]  # as it takes them

    return make


def wait_for(folder: Path, *, healthy: bool, limit: float = 40.0) -> list[str]:
    """What the health check complains of, once there is something, or nothing."""
    deadline = time.monotonic() + limit
    while (not (found := complaints(folder / "health"))) != healthy:
        assert time.monotonic() < deadline, f"it still says {found}"
        time.sleep(0.05)
    return found


def stays_healthy(folder: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert complaints(folder / "health") == []
        time.sleep(0.05)


def test_a_consumer_thread_that_hangs_is_unhealthy_until_it_goes_on(
    tmp_path: Path, start: Callable[..., WorkerProcess], producer: Producer, ledger: Ledger
) -> None:
    with start(module="frozen_service", queues=("probe",)):
        producer.send(Probe(name="before"))
        ledger.wait_for("end", "before")
        wait_for(tmp_path, healthy=True)
        (tmp_path / "freeze").touch()
        (said,) = wait_for(tmp_path, healthy=False)
        assert said.endswith(": the consumer of probe is not subscribed, though the broker answers")
        (tmp_path / "freeze").unlink()
        wait_for(tmp_path, healthy=True)
        producer.send(Probe(name="after"))
        ledger.wait_for("end", "after")


def test_a_subscription_that_was_lost_without_a_word_is_unhealthy_when_messages_wait(
    tmp_path: Path, start: Callable[..., WorkerProcess], producer: Producer, vhost_url: str
) -> None:
    with start(module="frozen_service", queues=("probe",)):
        wait_for_queue(vhost_url, "probe")
        wait_for(tmp_path, healthy=True)
        (tmp_path / "unsubscribe").touch()
        stays_healthy(tmp_path, STALL * 2)
        producer.send(Probe(name="waiting"))
        (said,) = wait_for(tmp_path, healthy=False)
        assert said.endswith(": messages are ready in probe and a thread is free, but none has been taken for 4 s")


def test_messages_that_wait_behind_busy_threads_are_healthy(
    tmp_path: Path, start: Callable[..., WorkerProcess], producer: Producer, ledger: Ledger
) -> None:
    with start(threads=1):
        producer.send_many(Probe(name=f"job-{n}", seconds=STALL * 4 if n == 0 else 0) for n in range(8))
        ledger.wait_for("start", "job-0")
        wait_for(tmp_path, healthy=True)
        stays_healthy(tmp_path, STALL * 2)
        assert not ledger.entries("end")


def test_an_outage_of_the_broker_is_healthy(
    tmp_path: Path, start: Callable[..., WorkerProcess], producer: Producer, ledger: Ledger, rabbitmq: RabbitMQ
) -> None:
    with start():
        wait_for(tmp_path, healthy=True)
        rabbitmq.kill()
        stays_healthy(tmp_path, STALL * 3)
        rabbitmq.start()
        producer.send(Probe(name="after"))
        ledger.wait_for("end", "after")
        wait_for(tmp_path, healthy=True)  # a queue may need longer than the bound of these tests to have a leader again


def test_a_worker_that_stops_is_healthy_while_its_last_job_runs_and_leaves_no_sign_of_life(
    tmp_path: Path, start: Callable[..., WorkerProcess], producer: Producer, ledger: Ledger
) -> None:
    with start(threads=4) as worker:
        producer.send(Probe(name="last", seconds=STALL * 2 + 2))
        ledger.wait_for("start", "last")
        wait_for(tmp_path, healthy=True)
        worker.signal(signal.SIGTERM)
        ledger.wait(lambda _: "Shutting down..." in worker.output(), what="the worker's word")
        stays_healthy(tmp_path, STALL + 1)
        assert not ledger.entries("end")
        assert worker.wait(20) == 0
        assert "has died" not in worker.output()
        assert '"level": "critical"' not in worker.output()
        assert list((tmp_path / "health").iterdir()) == []
    assert ledger.counts("end") == {"last": 1}
