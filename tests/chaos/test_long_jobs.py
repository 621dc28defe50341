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
def impatient_url(tmp_path: Path) -> Iterator[str]:
    """Address of a broker that takes back what is not acked within 2 s, instead of 30 min, and looks each second.

    The timeout is in its configuration: RabbitMQ 4.3 reads it when a queue starts, and cancels the consumer instead of
    closing the channel.
    """
    node = RabbitMQ(tmp_path / "impatient", config=["consumer_timeout = 2000"])
    try:
        node.start()
        node.ctl("eval", "application:set_env(rabbit, channel_tick_interval, 1000).")
        yield node.url
    finally:
        node.kill()


@pytest.mark.usefixtures("rabbitmq")  # which sees to it that the server is installed
def test_a_job_that_outlasts_the_consumer_timeout_runs_once_and_its_neighbours_too(
    tmp_path: Path, impatient_url: str, redis_url: str
) -> None:
    environment = {"JOBKIT_BROKER_URL": impatient_url, "JOBKIT_STORE_URL": redis_url}
    ledger = Ledger(tmp_path / "ledger")
    neighbours = [f"neighbour-{n}" for n in range(20)]
    with (
        WorkerProcess(tmp_path, environment, threads=2, name="one") as one,
        WorkerProcess(tmp_path, environment, threads=2, name="two") as two,
        Producer(impatient_url) as producer,
    ):
        producer.send_many(Probe(name=f"long-{n}", seconds=12) for n in range(2))
        ledger.wait(lambda log: len(log.entries("start")) == 2, what="the start of the long jobs")
        producer.send_many(Probe(name=name, seconds=0.5) for name in neighbours)
        ledger.wait_for("end", "long-0", "long-1", *neighbours, limit=60)
        wait_until_empty(impatient_url, "probe", limit=60)
        said = one.output() + two.output()
    # The first is of RabbitMQ before 4.3.
    words = ("delivery acknowledgement on channel", "the broker has cancelled the consumer")
    assert any(word in said for word in words), "the broker took the deliveries back meanwhile"
    assert set(ledger.counts("start").values()) == {1}
    assert set(ledger.counts("end").values()) == {1}
