"""Trap 4: the store, by which double work is told, does not answer: before a job, while it runs, after it."""

import threading

import pytest
from dramatiq.brokers.stub import StubBroker
from in_process import Ours, Settled, Stock, until
from once_only import OnceOnly
from queues import depth, wait_until_empty
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from local_stack.ports import free_port
from local_stack.redis import Redis as RedisNode

WORD = "jobs wait for it"


def wait_for_ends(stock: Stock, count: int) -> None:
    until(lambda: len(stock.ends) == count, "the job runs")


def test_stock_logs_that_the_store_is_down_and_runs_the_job_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    with Redis(port=free_port(), retry=Retry(NoBackoff(), 0)) as nobody:
        stock = Stock(StubBroker(), OnceOnly(nobody))
        with stock.working():
            for delivery in (1, 2):
                stock.send("invoice", job_id="invoice/17")
                wait_for_ends(stock, delivery)
    assert "Unexpected failure in before_process_message" in caplog.text
    assert stock.runs == ["invoice", "invoice"]


def test_before_a_job_it_waits_and_then_runs_once(
    ours: Ours, vhost_url: str, redis_server: RedisNode, caplog: pytest.LogCaptureFixture
) -> None:
    redis_server.stop()
    with ours.working(threads=2):
        for number in range(6):
            ours.send(f"job-{number}")
        until(lambda: WORD in caplog.text, "the worker says that it waits")
        assert ours.runs == []
        redis_server.start()
        until(lambda: len(ours.ends) == 6, "all end")
        wait_until_empty(vhost_url, "work")
    assert sorted(ours.runs) == [f"job-{number}" for number in range(6)]


def test_while_a_job_runs_it_ends_and_waits_with_its_result(
    ours: Ours, vhost_url: str, redis_server: RedisNode, caplog: pytest.LogCaptureFixture
) -> None:
    settled, finish = Settled(), threading.Event()
    ours.broker.add_middleware(settled)
    ours.do = lambda _name: finish.wait(20)
    with ours.working():
        job = ours.send("slow", job_id="slow")
        until(lambda: ours.runs, "the job runs")
        redis_server.kill()
        finish.set()
        until(lambda: WORD in caplog.text, "the worker says that it waits")
        assert (ours.ends, settled.acked) == (["slow"], [])
        redis_server.start()
        until(lambda: settled.acked == [job], "the job is recorded and acked")
        ours.send("slow", job_id="slow")
        until(lambda: len(settled.acked) == 2, "a copy of it is answered")
        wait_until_empty(vhost_url, "work")
    assert ours.runs == ["slow"]


def test_after_a_job_its_copy_waits_and_is_then_answered(
    ours: Ours, vhost_url: str, redis_server: RedisNode, caplog: pytest.LogCaptureFixture
) -> None:
    settled = Settled()
    ours.broker.add_middleware(settled)
    with ours.working():
        ours.send("invoice", job_id="invoice/17")
        until(lambda: len(settled.acked) == 1, "the job is done")
        redis_server.kill()
        ours.send("invoice", job_id="invoice/17")
        until(lambda: WORD in caplog.text, "the worker says that it waits")
        assert len(settled.acked) == 1
        redis_server.start()
        until(lambda: len(settled.acked) == 2, "the copy is answered")
    assert ours.runs == ["invoice"]
    assert depth(vhost_url, "work") == 0
