"""Trap 3: a time limit is reached when the job has ended, in a hook that runs after it."""

import threading
import time
from datetime import timedelta
from typing import Any

import pytest
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import Middleware, TimeLimit
from in_process import Ours, Stock, Twin, until

from jobkit.retry import fixed

LIMIT = 0.1  # seconds


class Bookkeeping(Middleware):
    """Middleware as anybody writes it, that is still busy with a failed job when the job's time limit is over."""

    def __init__(self) -> None:
        self.busy = threading.Event()

    def after_process_message(
        self, broker: Any, message: Any, *, result: object = None, exception: BaseException | None = None
    ) -> None:
        if exception is not None:
            until = time.monotonic() + LIMIT * 4
            while time.monotonic() < until:  # in Python code, where an interrupt lands
                pass
            self.busy.set()


def fail_once(twin: Twin) -> None:
    def do(_name: str) -> None:
        if len(twin.runs) == 1:
            raise RuntimeError("told to fail")

    twin.do = do


# The thread that dies is what the test is about.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_stock_acks_the_job_without_its_retry_and_its_thread_dies() -> None:
    broker, hook = StubBroker(), Bookkeeping()
    broker.middleware = [one for one in broker.middleware if not isinstance(one, TimeLimit)]
    broker.add_middleware(TimeLimit(interval=10))  # milliseconds; a second otherwise
    stock = Stock(broker, hook, time_limit=LIMIT * 1000)
    fail_once(stock)
    broker.emit_after("process_boot")  # starts the clock
    with stock.working(threads=1) as worker:
        stock.send("flaky")
        (thread,) = worker.workers
        until(lambda: not thread.is_alive(), "the worker's thread dies")
        assert not hook.busy.is_set(), "it was the hook that was hit"
        # Acked, and neither in a queue nor among the dead.
        assert [broker.queues[queue].unfinished_tasks for queue in ("work", "work.DQ")] == [0, 0]
        assert broker.dead_letters == []
        stock.send("after")
        until(lambda: worker.work_queue.qsize() == 1, "the next job waits for a thread, of which there is none")
    assert (stock.runs, stock.ends) == (["flaky"], [])


def test_no_interrupt_lands_in_a_hook_and_the_retry_follows() -> None:
    hook = Bookkeeping()
    ours = Ours("", "", hook, retry=fixed(0.01, attempts=3, jitter=0), time_limit=timedelta(seconds=LIMIT))
    fail_once(ours)
    with ours.working(threads=1) as worker:
        ours.send("flaky")
        until(lambda: ours.ends == ["flaky"], "the second attempt ends")
        ours.send("after")
        until(lambda: ours.ends == ["flaky", "after"], "the next job ends")
        assert hook.busy.is_set(), "the hook came to its end"
        assert all(thread.is_alive() for thread in worker.workers)
    assert ours.runs == ["flaky", "flaky", "after"]
