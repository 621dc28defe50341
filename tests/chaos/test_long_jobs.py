"""Jobs that run for longer than RabbitMQ waits for an ack (``consumer_timeout``)."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from ledger import Ledger
from probe_service import Probe
from queues import wait_until_empty
from worker_process import WorkerProcess

from jobkit.producer import Producer
from local_stack.rabbitmq import RabbitMQ


@pytest.fixture
def impatient(rabbitmq: RabbitMQ) -> Iterator[RabbitMQ]:
    """A broker that takes back what is not acked within 2 s, instead of 30 min, and looks each second."""
    rabbitmq.start()
    set_timeouts(rabbitmq, consumer=2_000, look=1_000)
    yield rabbitmq
    set_timeouts(rabbitmq, consumer=1_800_000, look=60_000)


def set_timeouts(rabbitmq: RabbitMQ, *, consumer: int, look: int) -> None:
    for name, milliseconds in (("consumer_timeout", consumer), ("channel_tick_interval", look)):
        rabbitmq.ctl("eval", f"application:set_env(rabbit, {name}, {milliseconds}).")


def test_a_job_that_outlasts_the_consumer_timeout_runs_once_and_its_neighbours_too(
    tmp_path: Path, impatient: RabbitMQ, vhost_url: str, redis_url: str
) -> None:
    environment = {"JOBKIT_BROKER_URL": vhost_url, "JOBKIT_STORE_URL": redis_url}
    ledger = Ledger(tmp_path / "ledger")
    neighbours = [f"neighbour-{n}" for n in range(20)]
    with (
        WorkerProcess(tmp_path, environment, threads=2, name="one") as one,
        WorkerProcess(tmp_path, environment, threads=2, name="two") as two,
        Producer(vhost_url) as producer,
    ):
        producer.send_many(Probe(name=f"long-{n}", seconds=9) for n in range(2))
        ledger.wait(lambda log: len(log.entries("start")) == 2, what="the start of the long jobs")
        producer.send_many(Probe(name=name, seconds=0.5) for name in neighbours)
        ledger.wait_for("end", "long-0", "long-1", *neighbours, limit=60)
        wait_until_empty(vhost_url, "probe", limit=60)
        said = one.output() + two.output()
    assert "delivery acknowledgement on channel" in said, "the broker took the deliveries back meanwhile"
    assert set(ledger.counts("start").values()) == {1}
    assert set(ledger.counts("end").values()) == {1}
