import numpy as np
import pytest

from inference_service.adapters.datasets import Dataset, Examples, Labels
from inference_service.adapters.splits import hashes
from inference_service.errors import BadDataset


def dataset(features: np.ndarray, labels: Labels, groups: np.ndarray | None = None) -> Dataset:
    return Dataset("d.npz", "0" * 64, Examples(features, labels), None, groups)


def shared(one: Examples, other: Examples) -> int:
    seen = {row.tobytes() for row in one.features}
    return sum(row.tobytes() in seen for row in other.features)


@pytest.mark.parametrize("times", [2, 10])
def test_equal_rows_are_not_in_both_parts(times: int) -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(200, 3))
    data = dataset(np.repeat(rows, times, axis=0), np.repeat(random.integers(0, 3, 200), times))
    training, holdout = data.split(0.2, seed=1)
    assert shared(training, holdout) == 0
    assert len(holdout.labels) == pytest.approx(0.2 * 200 * times, rel=0.1)
    assert len(training.labels) + len(holdout.labels) == 200 * times
    assert set(training.labels) == set(holdout.labels) == {0, 1, 2}


def test_equal_rows_with_different_labels_are_together_too() -> None:
    rows = np.random.default_rng(0).normal(size=(100, 2))
    training, holdout = dataset(np.concatenate([rows, rows]), np.repeat([0, 1], 100)).split(0.25, seed=0)
    assert shared(training, holdout) == 0
    assert np.bincount(holdout.labels).tolist() == [25, 25]


def test_a_few_different_rows_are_split_as_they_come() -> None:
    features = np.random.default_rng(0).integers(0, 2, (400, 2)).astype(float)
    training, holdout = dataset(features, (features[:, 0] > 0).astype(int)).split(0.2, seed=0)
    assert len(holdout.labels) == pytest.approx(80, abs=1)
    assert shared(training, holdout) == len(holdout.labels)


def test_rows_of_one_group_stay_together() -> None:
    random = np.random.default_rng(0)
    patients = random.integers(0, 40, 1000)
    features = np.c_[patients.astype(float), random.normal(size=1000)]
    training, holdout = dataset(features, random.integers(0, 2, 1000), patients).split(0.3, seed=0)
    assert not set(training.features[:, 0]) & set(holdout.features[:, 0])
    assert len(holdout.labels) == pytest.approx(300, rel=0.3)


def test_a_label_in_one_group_is_trained_on_and_not_held_out() -> None:
    groups = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    labels = np.array(["a", "b", "a", "b", "a", "b", "c", "c"])
    training, holdout = dataset(np.arange(8.0).reshape(-1, 1), labels, groups).split(0.3, seed=0)
    assert set(training.labels) == {"a", "b", "c"}
    assert set(holdout.labels) == {"a", "b"}


def test_a_group_per_label_leaves_nothing_to_hold_out() -> None:
    data = dataset(np.arange(4.0).reshape(-1, 1), np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1]))
    with pytest.raises(BadDataset, match="has each label in one group only: no row can be held out"):
        data.split(0.5, seed=0)


def test_the_hash_of_a_row_is_that_of_its_values() -> None:
    rows = np.array([[0.0, 1.0], [-0.0, 1.0], [1.0, 0.0], [0.0, 1.0000000000000002]])
    one, same, swapped, near = hashes(rows).tolist()
    assert one == same
    assert len({one, swapped, near}) == 3
    many = np.random.default_rng(0).integers(0, 50, (20_000, 3)).astype(np.float32)
    assert len(np.unique(hashes(many))) == len(np.unique(many, axis=0))
