"""What the end of a run means, for single failures and for groups of them."""

from collections.abc import Sequence
from datetime import timedelta

import dramatiq
import pytest
from dramatiq import Message
from dramatiq.errors import RateLimitExceeded
from dramatiq.middleware import Shutdown

from jobkit.deadletters import Reason
from jobkit.decision import decide
from jobkit.errors import (
    BadPayload,
    BrokerUnavailable,
    LeaseLost,
    NewerContract,
    PermanentError,
    Retry,
    SendRefused,
    Snooze,
    TimeLimitExceeded,
    TransientError,
)
from jobkit.execution import Decision, Execution, Verdict
from jobkit.retry import RetryPolicy, fixed, never
from jobkit.store.base import JobKey, Lease
from jobkit.waits import Limits

RATE_LIMITED = RateLimitExceeded("full")  # type: ignore[no-untyped-call]  # Dramatiq's own has no annotations
POLICY = fixed(10, attempts=3, jitter=0, retry_on=(TransientError, OSError))


def end(
    error: BaseException | None, *, attempt: int = 1, policy: RetryPolicy = POLICY, excused: int = 0, refused: int = 0
) -> Decision:
    options = {name: value for name, value in {"excused": excused, "refused": refused}.items() if value}
    message: Message[object] = Message("work", "work", (), {}, options, "id", 1)
    key = JobKey("work", "work", "id")
    execution = Execution(message, key, "owner", lease=Lease(key, "owner", 1, attempt))
    limits = Limits(excuse=timedelta(hours=2), rollout=timedelta(minutes=1), retry_after=timedelta(minutes=5))
    return decide(execution, error, policy, limits)


def seconds(decision: Decision) -> float:
    return decision.delay.total_seconds()


def test_a_job_that_returns_is_completed() -> None:
    assert end(None).verdict is Verdict.COMPLETED


def test_a_retry_waits_as_it_asks_uses_up_an_attempt_and_dies_after_the_last() -> None:
    assert (end(Retry(60)).verdict, seconds(end(Retry(60)))) == (Verdict.RETRIED, 60)
    last = end(Retry(60, cause=ValueError("busy")), attempt=3)
    assert (last.verdict, last.reason) == (Verdict.DIED, Reason.EXHAUSTED)
    assert isinstance(last.shown, ValueError)


def test_a_retry_that_is_raised_from_an_error_shows_that_error() -> None:
    retry = Retry(5)
    retry.__cause__ = OSError("reset")
    assert isinstance(end(retry, attempt=3).shown, OSError)


@pytest.mark.parametrize(("delay", "wait"), [(1500, 1.5), (0, 0), (None, 10)])
def test_dramatiqs_own_retry_uses_up_an_attempt_too(delay: int | None, wait: float) -> None:
    decision = end(dramatiq.errors.Retry("again", delay=delay))
    assert (decision.verdict, seconds(decision)) == (Verdict.RETRIED, wait)


def test_a_server_that_says_when_replaces_the_curve_within_a_bound() -> None:
    assert seconds(end(TransientError("429", retry_after=42))) == 42
    assert seconds(end(TransientError("429", retry_after=86_400))) == 300
    assert end(TransientError("429", retry_after=42), attempt=3).reason is Reason.EXHAUSTED


def test_a_snooze_uses_up_no_attempt() -> None:
    decision = end(Snooze(3, "too early"), attempt=3)
    assert (decision.verdict, seconds(decision), decision.waits_for) == (Verdict.SNOOZED, 3, "too early")


@pytest.mark.parametrize("outage", [BrokerUnavailable("403"), SendRefused("full")])
def test_an_outage_that_a_job_met_is_excused_for_a_while_and_then_uses_up_attempts(outage: Exception) -> None:
    waited, waits = 0, []
    while (decision := end(outage, excused=waited)).verdict is Verdict.SNOOZED:
        waits.append(seconds(decision))
        told = decision.options["excused"]
        assert isinstance(told, int)
        waited = told
    assert waits[:5] == [5, 10, 20, 40, 60]
    assert sum(waits) == waited == 7200
    assert (decision.verdict, end(outage, excused=waited, attempt=3).reason) == (Verdict.RETRIED, Reason.EXHAUSTED)


def test_whoever_says_never_is_not_excused() -> None:
    assert end(BrokerUnavailable("away"), policy=never()).reason is Reason.EXHAUSTED


def test_a_message_of_a_newer_contract_waits_for_a_bounded_time() -> None:
    assert end(NewerContract("version 3"), attempt=3).verdict is Verdict.SNOOZED
    dead = end(NewerContract("version 3"), refused=60)
    assert (dead.verdict, dead.reason) == (Verdict.DIED, Reason.NEWER_CONTRACT)


def group(*errors: BaseException, depth: int = 1) -> BaseException:
    for _ in range(depth):
        errors = (BaseExceptionGroup("tasks", errors),)
    return errors[0]


@pytest.mark.parametrize("depth", [1, 3, 2_000])
@pytest.mark.parametrize(
    ("errors", "verdict", "reason"),
    [
        ([ValueError("x"), LeaseLost()], Verdict.HANDED_BACK, None),
        ([PermanentError("x"), Shutdown("stop")], Verdict.HANDED_BACK, None),
        ([PermanentError("x"), TimeLimitExceeded()], Verdict.RETRIED, None),
        ([TransientError("x"), BadPayload("y")], Verdict.DIED, Reason.BAD_PAYLOAD),
        ([TransientError("x"), PermanentError("y")], Verdict.DIED, Reason.PERMANENT),
        ([TransientError("x"), ValueError("y")], Verdict.DIED, Reason.NOT_RETRIED),
        ([Snooze(5), ValueError("y")], Verdict.DIED, Reason.NOT_RETRIED),
        ([TransientError("x"), Retry(70)], Verdict.RETRIED, None),
        ([TransientError("x"), OSError("y")], Verdict.RETRIED, None),
        ([Snooze(5), OSError("y")], Verdict.RETRIED, None),
        ([Snooze(5), Snooze(9)], Verdict.SNOOZED, None),
        ([Snooze(5), BrokerUnavailable("away")], Verdict.SNOOZED, None),
        ([RATE_LIMITED, Snooze(9)], Verdict.SNOOZED, None),
    ],
)
def test_the_most_severe_failure_of_a_group_decides(
    errors: Sequence[BaseException], verdict: Verdict, reason: Reason | None, depth: int
) -> None:
    decision = end(group(*errors, depth=depth))
    assert (decision.verdict, decision.reason) == (verdict, reason)


def test_a_group_waits_for_the_longest_of_its_waits() -> None:
    assert seconds(end(group(TransientError("x"), Retry(70), TransientError("y", retry_after=90)))) == 90
    assert seconds(end(group(Snooze(5), Snooze(9), Snooze(7)))) == 9
