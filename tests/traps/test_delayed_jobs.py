"""Trap 8: many jobs are delayed by an hour, and then one by a second."""

import time

import dramatiq.worker
import pytest
from in_process import Ours, Stock, until
from queues import depth

HOUR = 3600.0
FAR = [f"far-{number}" for number in range(4)]
HELD = "jobkit.delay.11"  # an hour is 2048 + … seconds, and a delay begins at its highest digit


def test_stock_holds_them_unacked_in_memory_until_no_other_delayed_job_gets_through(
    stock: Stock, vhost_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dramatiq.worker, "DELAY_QUEUE_PREFETCH", len(FAR))  # a thousand for each thread, if not set
    with stock.working() as worker:
        for name in FAR:
            stock.send(name, delay=HOUR)
        memory = worker.consumers["work.DQ"].delay_queue
        until(lambda: memory.qsize() == len(FAR), "all wait in the worker's memory")
        due = time.monotonic() + 0.5
        stock.send("soon", delay=0.5)
        until(lambda: time.monotonic() > due + 0.5, "the near one is long due")
        stock.send("now")
        until(lambda: stock.ends == ["now"], "a job without a delay runs")
        assert depth(vhost_url, "work.DQ") == 1, "the near one waits behind those that are held"
        assert memory.qsize() == len(FAR)
    assert stock.runs == ["now"]


def test_the_broker_holds_them_and_the_near_one_runs_in_time(ours: Ours, vhost_url: str) -> None:
    with ours.working() as worker:
        for name in FAR:
            ours.send(name, delay=HOUR)
        ours.send("soon", delay=1)
        until(lambda: ours.ends == ["soon"], "the near one runs")
        assert depth(vhost_url, HELD) == len(FAR)
        assert worker.work_queue.qsize() == 0
        assert all(consumer.delay_queue.qsize() == 0 for consumer in worker.consumers.values())
    assert ours.runs == ["soon"]
