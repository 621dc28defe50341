"""Percentiles and spread of the benchmark."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quantiles import Spread, percentile


def test_a_percentile_is_one_of_the_values() -> None:
    hundred = list(range(100, 0, -1))
    assert [percentile(hundred, p) for p in (1, 50, 99, 100)] == [1, 50, 99, 100]
    assert percentile([7], 99) == 7
    assert percentile([1, 2, 3], 50) == 2


@settings(deadline=None)
@given(st.lists(st.integers(), min_size=1, max_size=60), st.integers(1, 100))
def test_it_is_the_least_value_that_so_many_do_not_exceed(values: list[int], percent: int) -> None:
    found = percentile(values, percent)

    def covered(bound: float) -> int:
        return sum(value <= bound for value in values)

    assert covered(found) * 100 >= percent * len(values)
    assert all(covered(value) * 100 < percent * len(values) for value in values if value < found)


def test_no_values_have_no_percentile() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_a_spread_is_median_least_and_most() -> None:
    assert Spread.of([3, 1, 10]) == Spread(3, 1, 10)
