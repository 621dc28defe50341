"""Durations are exact to the millisecond."""

from datetime import timedelta

import pytest

from jobkit.time import milliseconds


@pytest.mark.parametrize("number", [0, 1, 1001, 1009, 4035, 86_399_999])
def test_no_millisecond_is_lost_to_rounding(number: int) -> None:
    assert milliseconds(timedelta(milliseconds=number)) == number


def test_what_is_less_than_a_millisecond_does_not_count() -> None:
    assert milliseconds(timedelta(microseconds=1999)) == 1
