from collections.abc import Callable
from datetime import timedelta

import pytest

from inference_service.adapters.pace import Pace
from inference_service.errors import EpochTooLong, EpochTooSlow
from jobkit.errors import Snooze, TimeLimitExceeded

SLICE, LIMIT = timedelta(seconds=480), timedelta(seconds=600)
BATCHES = 10


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def pace(clock: Clock, stopping: Callable[[], bool] = lambda: False) -> Pace:
    return Pace(SLICE, LIMIT, stopping, clock=clock)


def train(pace: Pace, clock: Clock, number: int, seconds: float, startup: float = 0.0) -> None:
    """An epoch of equal batches."""
    with pace.epoch(number, 5000):
        clock.now += startup
        for batch in range(1, BATCHES + 1):
            clock.now += seconds / BATCHES
            pace.after_batch(batch / BATCHES)


def struck(pace: Pace, clock: Clock, number: int) -> None:
    """An epoch that the time limit ends, and that has told nothing of itself."""
    with pace.epoch(number, 5000):
        clock.now += 599
        raise TimeLimitExceeded


def deliver(clock: Clock, seconds: float, first: int, epochs: int) -> int:
    """Train until the delivery ends; return the last epoch."""
    one = pace(clock)
    for epoch in range(first, epochs + 1):
        train(one, clock, epoch, seconds)
        try:
            one.hand_back_if_due(epoch, epochs)
        except Snooze:
            return epoch
    return epochs


@pytest.mark.parametrize("seconds", range(10, 540, 10))
def test_a_delivery_ends_before_the_time_limit_whatever_an_epoch_takes(seconds: int) -> None:
    clock, done = Clock(), 0
    while done < 60:
        began = clock.now
        last = deliver(clock, seconds, done + 1, 60)
        assert last > done
        assert clock.now - began <= 540, "a tenth of the limit is left for what follows the last epoch"
        done = last


def test_a_delivery_uses_its_slice(clock: Clock) -> None:
    assert deliver(clock, 10, 1, 1000) == 49  # the slice is over after 48, and the epoch that runs is ended
    assert deliver(clock, 160, 1, 1000) == 3


def test_an_epoch_longer_than_the_time_limit_is_refused_with_the_sum_before_the_limit(clock: Clock) -> None:
    one = pace(clock)
    with pytest.raises(
        EpochTooLong,
        match=r"an epoch takes about 800 s after 0 s to read the data, and a job may run for 600 s: train on fewer",
    ):
        train(one, clock, 1, 800)
    assert clock.now - 1000 < 600 / 2


def test_the_time_to_read_the_data_counts(clock: Clock) -> None:
    one = pace(clock)
    clock.now += 100
    with pytest.raises(EpochTooLong, match="takes about 500 s after 100 s to read the data"):
        train(one, clock, 1, 500)


def test_what_is_done_once_at_the_first_batch_is_not_taken_for_every_batch(clock: Clock) -> None:
    train(pace(clock), clock, 1, 300, startup=200)


def test_an_epoch_that_runs_into_the_limit_without_a_sign_is_refused_too(clock: Clock) -> None:
    one = pace(clock)
    with pytest.raises(EpochTooLong, match=r"was not over after 599 s, 0% of it were done"):
        struck(one, clock, 1)
    with pytest.raises(TimeLimitExceeded):  # it is not known to take that long always
        struck(one, clock, 2)


def test_a_later_epoch_that_slows_down_is_no_verdict_on_the_training(clock: Clock) -> None:
    with pytest.raises(EpochTooSlow, match="The epochs before number 7 took less"):
        train(pace(clock), clock, 7, 800)


def test_a_second_epoch_that_slows_down_is_left_to_the_next_delivery(clock: Clock) -> None:
    one = pace(clock)
    train(one, clock, 1, 100)
    with pytest.raises(Snooze, match="epoch 2 takes longer than those before it"):
        train(one, clock, 2, 900)
    assert clock.now - 1000 < 600


def test_a_worker_that_stops_gets_its_training_back_after_the_batch(clock: Clock) -> None:
    one = pace(clock, stopping=lambda: clock.now > 1025)
    with pytest.raises(Snooze, match="the worker stops") as caught:
        train(one, clock, 1, 100)
    assert (clock.now, caught.value.after) == (1030, timedelta())


def test_a_model_is_not_published_in_the_last_minute_of_a_delivery(clock: Clock) -> None:
    one = pace(clock)
    with one.epoch(3, 5000):
        clock.now += 560
    with pytest.raises(Snooze, match="the next delivery publishes the model"):
        one.hand_back_if_due(3, 3)
