import numpy as np
import pytest

from inference_service.adapters.scaling import Scaling

UNIT = np.random.default_rng(0).normal(size=2000)


@pytest.mark.parametrize("factor", [1e-300, 1e-200, 1e-42, 1e-3, 1.0, 1e20, 1e99])
@pytest.mark.parametrize("offset", [0.0, 1.0, 1e6])
def test_a_feature_of_any_magnitude_has_mean_0_and_deviation_1(factor: float, offset: float) -> None:
    column = ((UNIT + offset) * factor).reshape(-1, 1)
    scaled = Scaling.fit(column).apply(column)
    assert scaled.dtype == np.float32
    assert scaled.mean() == pytest.approx(0, abs=1e-6)
    assert scaled.std() == pytest.approx(1, abs=1e-6)
    assert np.corrcoef(scaled[:, 0], UNIT)[0, 1] > 0.999999


@pytest.mark.parametrize("base", [1.7e9, 1.7e12, 2.0**53 - 2000])
def test_time_stamps_and_ids_that_differ_in_their_last_digits_stay_different(base: float) -> None:
    column = (base + np.arange(1000)).reshape(-1, 1)
    assert len(np.unique(Scaling.fit(column).apply(column))) == 1000
    assert len(np.unique(column.astype(np.float32))) < 100, "32 bits alone cannot"


@pytest.mark.parametrize("value", [0.0, 0.1, 1e-310, -1e100])
def test_a_feature_that_never_varied_says_nothing_later_either(value: float) -> None:
    scaling = Scaling.fit(np.full((7, 1), value))
    assert scaling.apply(np.array([[value], [value + 5], [-1e100]])).tolist() == [[0], [0], [0]]


def test_a_value_beyond_32_bits_is_infinite_and_no_other_number() -> None:
    scaling = Scaling.fit(np.array([[0.0], [1e-200]]))
    assert np.isinf(scaling.apply(np.array([[1e50]]))).all()
