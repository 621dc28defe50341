"""When a failed job runs again, and whether it does."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from dramatiq.middleware import Shutdown
from hypothesis import given
from hypothesis import strategies as st

from jobkit.breaker.breaker import CircuitBreaker
from jobkit.errors import (
    LONGEST_DELAY,
    OUTAGES,
    BadPayload,
    MessageTooLarge,
    PermanentError,
    Poison,
    Retry,
    Snooze,
    TimeLimitExceeded,
    TransientError,
)
from jobkit.retry import MAX_DELAY, Curve, RetryOn, RetryPolicy, custom, exponential, fixed, linear, never


def longest(policy: RetryPolicy, count: int) -> list[float]:
    return [policy.delay(n, draw=lambda: 0.5).total_seconds() for n in range(1, count + 1)]


def test_exponential_waits_multiply_up_to_the_cap() -> None:
    assert longest(exponential(base=2, first=1, cap=20), 7) == [1, 2, 4, 8, 16, 20, 20]
    assert longest(exponential(base=3, first=0.5, cap=100), 4) == [0.5, 1.5, 4.5, 13.5]


def test_linear_waits_add_up_to_the_cap() -> None:
    assert longest(linear(15, cap=40), 4) == [15, 30, 40, 40]


def test_fixed_waits_are_all_the_same_however_long() -> None:
    assert longest(fixed(1200), 3) == [1200, 1200, 1200]


def test_custom_waits_are_exact_and_capped() -> None:
    policy = custom(lambda attempt, _failure: {1: 5.0, 2: 60.0}.get(attempt, 3600.0), cap=900, jitter=0)
    assert longest(policy, 3) == [5, 60, 900]
    assert policy.delay(1, draw=lambda: 1.0) == timedelta(seconds=5)


def test_never_means_one_attempt() -> None:
    assert never().attempts == 1
    assert never().horizon == timedelta()


@pytest.mark.parametrize("attempt", [1_024, 5_000, 10**6])
def test_an_exponential_beyond_all_numbers_waits_for_the_cap(attempt: int) -> None:
    for base in (2, 2.0, 10.5):
        assert exponential(base=base, cap=600).delay(attempt, draw=lambda: 0.5) == timedelta(seconds=600)


@pytest.mark.parametrize("wait", [-5.0, float("-inf")])
def test_a_negative_wait_is_none_at_all(wait: float) -> None:
    assert custom(lambda _attempt, _failure: wait).delay(1) == timedelta()


@pytest.mark.parametrize("wait", [float("inf"), float("nan")])
def test_a_wait_that_is_no_length_of_time_is_the_cap(wait: float) -> None:
    assert custom(lambda _attempt, _failure: wait, cap=30, jitter=0).delay(1) == timedelta(seconds=30)


def test_a_mistake_in_a_policy_neither_loses_the_job_nor_runs_it_without_end(caplog: pytest.LogCaptureFixture) -> None:
    policy = custom(
        lambda attempt, _failure: [1.0, 2.0][attempt - 1],
        cap=30,
        jitter=0,
        retry_on=lambda error: error.args[1] == "busy",
    )
    assert policy.delay(3) == timedelta(seconds=30)
    assert policy.retries(ValueError("one argument"))
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]


@given(st.integers(1, 3_000), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1000))
def test_jitter_moves_a_wait_by_its_part_and_no_further(attempt: int, jitter: float, draw: float, cap: float) -> None:
    policy = exponential(cap=cap, jitter=jitter)
    full = min(cap, 2.0 ** min(attempt - 1, 100))
    wait = policy.delay(attempt, draw=lambda: draw).total_seconds()
    assert full * (1 - jitter) - 1e-6 <= wait <= full * (1 + jitter) + 1e-6


def test_the_default_jitter_multiplies_by_eight_to_twelve_tenths_after_the_cap() -> None:
    policy = exponential(first=1000, cap=100)
    draws = iter([0.0, 0.5, 1.0])
    assert [policy.delay(1, draw=lambda: next(draws)).total_seconds() for _ in range(3)] == [80, 100, 120]


def test_a_curve_of_ones_own_has_the_default_jitter_too() -> None:
    policy = custom(lambda _attempt, _failure: 100)
    draws = iter([0.0, 0.5, 1.0])
    assert [policy.delay(1, draw=lambda: next(draws)).total_seconds() for _ in range(3)] == [80, 100, 120]


@pytest.mark.parametrize("curve", [lambda _attempt: 1, lambda: 1, lambda _attempt, _failure, _third: 1, 5])
def test_a_curve_that_cannot_be_called_with_attempt_and_exception_is_refused(curve: Curve) -> None:
    with pytest.raises(TypeError, match="must be a function of two arguments"):
        custom(curve)


def test_a_curve_of_ones_own_is_told_the_attempt_and_the_exception() -> None:
    def curve(attempt: int, failure: BaseException) -> float:
        return attempt * (60 if isinstance(failure, OSError) else 5)

    policy = custom(curve, jitter=0)
    assert policy.delay(2, OSError("away")) == timedelta(seconds=120)
    assert policy.delay(2, ValueError("odd")) == timedelta(seconds=10)


def test_jobs_that_failed_together_do_not_come_back_together() -> None:
    policy = fixed(100)
    assert len({policy.delay(1) for _ in range(20)}) > 10


@pytest.mark.parametrize(
    ("retry_on", "retried", "not_retried"),
    [
        (OSError, ConnectionError("reset"), ValueError("wrong")),
        ((OSError, TransientError), TransientError("busy"), ValueError("wrong")),
        (lambda error: "busy" in str(error), RuntimeError("busy"), RuntimeError("broken")),
    ],
)
def test_retry_on_says_which_failures_deserve_another_attempt(
    retry_on: RetryOn, retried: Exception, not_retried: Exception
) -> None:
    policy = exponential(retry_on=retry_on)
    assert policy.retries(retried)
    assert not policy.retries(not_retried)


@pytest.mark.parametrize("retry_on", [Exception, PermanentError, (PermanentError,), lambda _error: True])
@pytest.mark.parametrize("failure", [PermanentError("no"), BadPayload("no"), Poison("no")])
def test_a_permanent_error_is_never_retried(retry_on: RetryOn, failure: Exception) -> None:
    assert not exponential(retry_on=retry_on).retries(failure)


@pytest.mark.parametrize("retry_on", [ValueError, (), lambda _error: False])
@pytest.mark.parametrize("interrupt", [TimeLimitExceeded("late"), Shutdown("stop")])
def test_an_interrupt_is_retried_whatever_the_policy_names(retry_on: RetryOn, interrupt: BaseException) -> None:
    assert exponential(retry_on=retry_on).retries(interrupt)


@pytest.mark.parametrize("outage", OUTAGES)
def test_an_outage_is_retried_whatever_the_policy_names(outage: type[Exception]) -> None:
    assert exponential(retry_on=TransientError).retries(outage("away"))


def test_a_message_that_is_too_large_is_not_retried() -> None:
    assert not exponential().retries(MessageTooLarge("too large"))


def test_the_horizon_is_the_sum_of_the_longest_waits_between_all_attempts() -> None:
    assert exponential(cap=600, attempts=5, jitter=0).horizon == timedelta(seconds=1 + 2 + 4 + 8)
    assert linear(10, cap=25, attempts=4, jitter=0.2).horizon == timedelta(seconds=(10 + 20 + 25) * 1.2)
    assert fixed(7, attempts=1).horizon == timedelta()
    assert custom(lambda _attempt, _failure: 1, cap=30, attempts=3).horizon == timedelta(seconds=72)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: exponential(attempts=0), "attempts=0"),
        (lambda: fixed(-1), "cap=-1"),
        (lambda: fixed(MAX_DELAY.total_seconds() + 1), "604800"),
        (lambda: linear(1, cap=float("nan")), "cap=nan"),
        (lambda: exponential(jitter=1.5), "jitter=1.5"),
        (lambda: exponential(jitter=-0.1), "jitter=-0.1"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(make: Callable[[], RetryPolicy], says: str) -> None:
    with pytest.raises(ValueError, match="must be") as refusal:
        make()
    assert says in str(refusal.value)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: exponential(attempts=2.5), "attempts=2.5"),  # type: ignore[arg-type]  # what is refused
        (lambda: exponential(attempts=True), "attempts=True"),
        (lambda: exponential(retry_on=[ValueError]), "retry_on="),  # type: ignore[arg-type]
        (lambda: exponential(retry_on="ValueError"), "retry_on="),  # type: ignore[arg-type]
        (lambda: exponential(retry_on=int), "retry_on="),  # type: ignore[arg-type]
        (lambda: exponential(retry_on=(ValueError, int)), "retry_on="),  # type: ignore[arg-type]
        (lambda: exponential(retry_on=ValueError("x")), "retry_on="),  # type: ignore[arg-type]
        (lambda: CircuitBreaker("b", trips_on=[OSError]), "trips_on="),  # type: ignore[arg-type]
        (lambda: CircuitBreaker("b", failures=2.5), "failures=2.5"),  # type: ignore[arg-type]
    ],
)
def test_a_value_of_another_type_is_refused(make: Callable[[], object], says: str) -> None:
    with pytest.raises(TypeError, match="must be") as refusal:
        make()
    assert says in str(refusal.value)


@pytest.mark.parametrize("kind", [Snooze, Retry])
def test_a_delay_and_a_reason_are_kept(kind: type[Snooze] | type[Retry]) -> None:
    assert kind(timedelta(minutes=2)).after == timedelta(minutes=2)
    assert kind(1.5, "rate limited").after == timedelta(seconds=1.5)
    assert str(kind(1.5, "rate limited")) == "rate limited"


@pytest.mark.parametrize("kind", [Snooze, Retry])
@pytest.mark.parametrize("delay", [-1, -0.003, timedelta(seconds=-1), timedelta.min, float("-inf"), 0])
def test_a_moment_that_has_just_passed_is_now(kind: type[Snooze] | type[Retry], delay: timedelta | float) -> None:
    assert kind(delay).after == timedelta()


@pytest.mark.parametrize("kind", [Snooze, Retry])
@pytest.mark.parametrize(
    "delay", [timedelta.max, float("inf"), 2**28, LONGEST_DELAY + timedelta(milliseconds=1), float("nan")]
)
def test_an_impossible_delay_is_refused_with_its_bound(
    kind: type[Snooze] | type[Retry], delay: timedelta | float
) -> None:
    with pytest.raises(ValueError, match=r"delay=.*(268435455 seconds|not a number)"):
        kind(delay)


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (30, timedelta(seconds=30)),
        (timedelta(minutes=1), timedelta(minutes=1)),
        (-5, timedelta()),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None),
        (float("nan"), None),
        (None, None),
    ],
)
def test_a_wait_that_a_server_asks_for_never_replaces_its_error(said: float | None, kept: timedelta | None) -> None:
    error = TransientError("429", retry_after=said)
    assert (str(error), error.retry_after) == ("429", kept)
