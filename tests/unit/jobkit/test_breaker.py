"""What opens a breaker."""

from datetime import timedelta

import pytest

from jobkit.breaker.breaker import CircuitBreaker, Sample
from jobkit.errors import PermanentError, TimeLimitExceeded, TransientError
from jobkit.time import minutes, seconds


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def sample(clock: Clock | None = None) -> Sample:
    return Sample(CircuitBreaker("smtp", failures=3, within=seconds(10)), clock or Clock())


def test_failures_of_different_jobs_are_a_burst() -> None:
    one = sample()
    assert [one.add(job) for job in ("a", "b", "c")] == [False, False, True]


def test_one_job_that_fails_again_and_again_is_no_burst() -> None:
    one = sample()
    assert not any(one.add("a") for _ in range(50))


def test_failures_among_many_successes_are_no_burst() -> None:
    one = sample()
    for _ in range(20):
        one.add()
    assert not any(one.add(f"job-{n}") for n in range(10))
    assert [one.add(f"job-{n}") for n in range(10, 20)][-1], "half of all is"


def test_failures_that_lie_too_far_apart_are_no_burst() -> None:
    clock = Clock()
    one = sample(clock)
    for number in range(10):
        assert not one.add(f"job-{number}")
        clock.now += 6


def test_a_sample_that_forgets_begins_anew() -> None:
    one = sample()
    one.add("a")
    one.add("b")
    one.forget()
    assert not one.add("c")


@pytest.mark.parametrize(
    "failure", [TransientError(), ConnectionResetError(), TimeoutError(), TimeLimitExceeded("late")]
)
def test_what_looks_like_an_outage_trips(failure: BaseException) -> None:
    assert CircuitBreaker("smtp").trips(failure)


@pytest.mark.parametrize("failure", [ValueError(), PermanentError()])
def test_a_mistake_does_not_trip(failure: BaseException) -> None:
    assert not CircuitBreaker("smtp").trips(failure)


def test_the_rule_of_what_trips_may_be_a_function_but_a_permanent_error_never_does() -> None:
    breaker = CircuitBreaker("smtp", trips_on=lambda error: "busy" in str(error))
    assert breaker.trips(ValueError("busy"))
    assert not breaker.trips(TransientError("idle"))
    assert not breaker.trips(PermanentError("busy"))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"name": ""}, "name"),
        ({"failures": 0}, "failures"),
        ({"within": timedelta()}, "within"),
        ({"pause": timedelta()}, "pause"),
        ({"pause": minutes(10)}, "longest"),
        ({"longest": timedelta(days=30)}, "longest"),
    ],
)
def test_a_breaker_that_cannot_work_is_refused(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        CircuitBreaker(**{"name": "smtp", **wrong})  # type: ignore[arg-type]  # they are wrong on purpose
