"""Trap 13: a queue of that name exists, and was made with other arguments (RabbitMQ answers 406)."""

from pathlib import Path

import pika
import pytest
from in_process import Stock, until
from worker_process import WorkerProcess

MISCONFIGURED = 78  # sysexits.h: EX_CONFIG


def declare_by_hand(url: str, queue: str) -> None:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        connection.channel().queue_declare(queue, durable=True)


def test_stock_tries_for_ever_to_make_the_queue(
    stock: Stock, vhost_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dramatiq.worker.CONSUMER_RESTART_DELAY_SECS", 0.02)
    declare_by_hand(vhost_url, "work")
    with stock.working() as worker:
        until(lambda: caplog.text.count('406, "PRECONDITION_FAILED') >= 5, "it has tried again and again")
        assert all(thread.is_alive() for thread in worker.consumers.values())


def test_the_worker_ends_and_says_which_queue_and_what_to_do(
    tmp_path: Path, worker_settings: dict[str, str], vhost_url: str
) -> None:
    declare_by_hand(vhost_url, "probe")
    worker = WorkerProcess(tmp_path, worker_settings)
    try:
        worker.start(wait=False)
        assert worker.wait(30) == MISCONFIGURED
    finally:
        worker.kill()
    assert "queue 'probe'" in worker.output()
    assert "drain and delete it" in worker.output()
    assert "Traceback" not in worker.output()
