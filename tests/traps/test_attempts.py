"""Trap 16: a job that has to wait, a job that fails several times, and a predicate that says what is retried."""

import pytest
from dramatiq import RateLimitExceeded, actor
from dramatiq.brokers.stub import StubBroker
from in_process import Ours, Stock, until

from jobkit.errors import Snooze, TransientError
from jobkit.retry import fixed

WAITS = 5  # more than there are attempts


def no_slot() -> RateLimitExceeded:
    return RateLimitExceeded("no slot is free")  # type: ignore[no-untyped-call]  # Dramatiq's errors have none


def test_stock_uses_up_an_attempt_for_each_wait_and_the_job_dies() -> None:
    broker = StubBroker()
    stock = Stock(broker, max_retries=2)

    def wait_for_a_slot(_name: str) -> None:
        if len(stock.runs) <= WAITS:
            raise no_slot()

    stock.do = wait_for_a_slot
    with stock.working():
        stock.send("patient")
        until(lambda: broker.dead_letters, "the job dies")
    assert (len(stock.runs), stock.ends) == (3, [])


@pytest.mark.parametrize("wait", [Snooze(0.01), no_slot()], ids=["retry", "rate limit"])
def test_a_wait_uses_up_no_attempt(wait: Exception) -> None:
    ours = Ours(retry=fixed(0.01, attempts=2, jitter=0))

    def wait_for_a_slot(_name: str) -> None:
        if len(ours.runs) <= WAITS:
            raise wait
        if len(ours.runs) == WAITS + 1:
            raise TransientError("the first real failure, of two that are allowed")

    ours.do = wait_for_a_slot
    with ours.working():
        ours.send("patient")
        until(lambda: ours.ends or ours.exchange.dead_letters("work"), "the job ends")
    assert (len(ours.runs), ours.ends) == (WAITS + 2, ["patient"])


def always_fail(_name: str) -> None:
    raise TransientError("told to fail")


def test_stock_calls_on_failure_at_each_attempt() -> None:
    broker = StubBroker()
    told: list[object] = []
    actor(actor_name="report", queue_name="reports", broker=broker)(lambda *told_of: told.append(told_of))
    stock = Stock(broker, max_retries=2, on_failure="report")
    stock.do = always_fail
    with stock.working():
        stock.send("doomed")
        until(lambda: broker.dead_letters and len(told) == 3, "the job dies, and has been reported three times")


def test_stock_retries_for_ever_when_a_predicate_is_given() -> None:
    stock = Stock(StubBroker(), max_retries=0, retry_when=lambda _retries, error: isinstance(error, TransientError))
    stock.do = always_fail
    with stock.working():
        stock.send("doomed")
        until(lambda: len(stock.runs) > 3, "it runs more often than max_retries says")
        stock.do = lambda _name: None  # or it would go on


@pytest.mark.parametrize(("error", "runs"), [(TransientError("busy"), 2), (ValueError("wrong"), 1)])
def test_a_predicate_and_a_number_of_attempts_both_count_and_a_death_is_told_once(error: Exception, runs: int) -> None:
    ours = Ours(retry=fixed(0.01, attempts=2, jitter=0, retry_on=TransientError))

    def fail(_name: str) -> None:
        raise error

    ours.do = fail
    with ours.working():
        ours.send("doomed")
        until(lambda: ours.exchange.dead_letters("work"), "the job dies")
    assert len(ours.runs) == runs
    assert len(ours.exchange.dead_letters("work")) == 1
