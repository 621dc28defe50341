"""Trap 5: the same job is delivered twice, by a lost confirm, a redelivery or a sender that sends again."""

import threading
from pathlib import Path

from dramatiq.results import Results
from dramatiq.results.backends.redis import RedisBackend
from in_process import Ours, Settled, Stock, until
from ledger import Ledger
from once_only import OnceOnly
from queues import message_body, publish, wait_until_empty
from redis import Redis
from worker_process import WorkerProcess

from jobkit.store.base import JobKey
from jobkit.store.redis import RedisStore


def wait_for_acks(settled: Settled, count: int) -> None:
    until(lambda: len(settled.acked) == count, "the delivery is acked")


def test_stock_overwrites_the_result_of_a_finished_job_with_none(vhost_url: str, redis_url: str) -> None:
    with Redis.from_url(redis_url) as client:
        # The ignores: Dramatiq's results have no annotations.
        backend, settled = RedisBackend(client=client), Settled()  # type: ignore[no-untyped-call]
        keeper = Results(backend=backend)  # type: ignore[no-untyped-call]
        stock = Stock(vhost_url, OnceOnly(client), keeper, settled, store_results=True)
        stock.do = lambda _name: "worth keeping"
        message = stock.actor.message("report")
        with stock.working():
            results = []
            for deliveries in (1, 2):
                stock.broker.enqueue(message)
                wait_for_acks(settled, deliveries)
                results.append(backend.get_result(message))  # type: ignore[no-untyped-call]
    assert stock.runs == ["report"]
    assert results == ["worth keeping", None]


def test_the_result_of_a_finished_job_stays(ours: Ours, vhost_url: str, redis_url: str) -> None:
    settled, store = Settled(), RedisStore(redis_url)
    ours.broker.add_middleware(settled)
    ours.do = lambda _name: "worth keeping"
    with ours.working():
        for deliveries in (1, 2):
            ours.send("report", job_id="report/17")
            wait_for_acks(settled, deliveries)
            record = store.record(JobKey("work", "work", "report/17"))
            assert record is not None
            assert record.result == b'"worth keeping"'
        wait_until_empty(vhost_url, "work")
    store.close()
    assert ours.runs == ["report"]


def test_stock_runs_two_copies_at_the_same_time(stock: Stock) -> None:
    together = threading.Barrier(2)
    stock.do = lambda _name: together.wait(20)
    with stock.working(threads=2):
        for _ in range(2):
            stock.send("slow", job_id="slow")
        until(lambda: len(stock.ends) == 2, "both copies end")


def test_a_copy_that_comes_while_the_first_one_runs_waits_and_is_then_answered(ours: Ours, vhost_url: str) -> None:
    settled, finish = Settled(), threading.Event()
    ours.broker.add_middleware(settled)
    ours.do = lambda _name: finish.wait(20)
    with ours.working(threads=2):
        for _ in range(2):
            ours.send("slow", job_id="slow")
        until(lambda: settled.acked, "one of the copies is deferred")
        assert (ours.runs, ours.ends) == (["slow"], [])
        finish.set()
        until(lambda: ours.ends, "the other one ends")
        until(lambda: len(settled.acked) == 3, "the deferred copy comes back, and is answered")
        wait_until_empty(vhost_url, "work")
    assert ours.runs == ["slow"]


def test_a_copy_that_waits_runs_if_the_first_one_dies_with_its_worker(
    tmp_path: Path, worker_settings: dict[str, str], vhost_url: str
) -> None:
    ledger = Ledger(tmp_path / "ledger")
    body = message_body(kwargs={"name": "unlucky", "then": "hang", "until_attempt": 2})
    with WorkerProcess(tmp_path, worker_settings, name="first") as first:
        publish(vhost_url, "probe", body)
        ledger.wait_for("start", "unlucky")
        publish(vhost_url, "probe", body)
        ledger.wait(lambda _: "job not run: deferred" in first.output(), what="the worker's word")
        first.kill()
    with WorkerProcess(tmp_path, worker_settings, name="second"):
        ledger.wait_for("end", "unlucky")
        wait_until_empty(vhost_url, "probe")
    assert (ledger.counts("start"), ledger.counts("end")) == ({"unlucky": 2}, {"unlucky": 1})
