"""Trap 1: an attempt fails, and the broker does not take its retry."""

import threading
from collections.abc import Callable

import pytest
from in_process import Ours, Settled, Stock, Twin, until
from queues import depth, wait_until_empty


def fail_once_then(twin: Twin, failing: threading.Event) -> None:
    """Let the first run wait for the event, and fail."""

    def do(_name: str) -> None:
        if len(twin.runs) == 1:
            assert failing.wait(20)
            raise RuntimeError("told to fail")

    twin.do = do


def test_stock_acks_the_job_and_so_loses_it(
    stock: Stock, vhost_url: str, refuse_publishing: Callable[[bool], None]
) -> None:
    settled, failing = Settled(), threading.Event()
    stock.broker.add_middleware(settled)
    fail_once_then(stock, failing)
    with stock.working():
        job = stock.send("flaky")
        until(lambda: stock.runs, "the first attempt runs")
        refuse_publishing(True)
        failing.set()
        until(lambda: settled.acked == [job], "the job is acked")
    refuse_publishing(False)
    assert [depth(vhost_url, queue) for queue in ("work", "work.DQ", "work.XQ")] == [0, 0, 0]
    assert stock.ends == []


def test_the_job_waits_in_its_worker_until_its_retry_is_taken(
    ours: Ours, vhost_url: str, refuse_publishing: Callable[[bool], None], caplog: pytest.LogCaptureFixture
) -> None:
    settled, failing = Settled(), threading.Event()
    ours.broker.add_middleware(settled)
    fail_once_then(ours, failing)
    with ours.working():
        ours.send("flaky")
        until(lambda: ours.runs, "the first attempt runs")
        refuse_publishing(True)
        failing.set()
        until(lambda: "; jobs wait until that is mended" in caplog.text, "the worker says that it is refused")
        assert (ours.runs, settled.acked, settled.rejected) == (["flaky"], [], [])
        refuse_publishing(False)
        until(lambda: ours.ends, "the second attempt ends")
        wait_until_empty(vhost_url, "work")
    assert ours.runs == ["flaky", "flaky"]
