import io
import zipfile
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pytest

from inference_service.adapters.datasets import Dataset, Datasets
from inference_service.adapters.storage import ObjectStorage, open_storage
from inference_service.errors import BadDataset

KEY = "numbers.npz"


def npz(**arrays: npt.ArrayLike) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # none of them is called allow_pickle
    return file.getvalue()


class Read(Protocol):
    def __call__(self, data: bytes | None, *, max_bytes: int = ...) -> Dataset: ...


@pytest.fixture
def storage() -> ObjectStorage:
    return open_storage("memory:///")


@pytest.fixture
def read(storage: ObjectStorage) -> Read:
    def read(data: bytes | None, *, max_bytes: int = 2**20) -> Dataset:
        if data is not None:
            storage.put(KEY, data)
        return Datasets(storage, max_bytes).read(KEY)

    return read


def test_a_data_set_is_read_back_as_it_was_written(read: Read) -> None:
    data = read(npz(features=[[1, 2], [3, 4]], labels=[7, 8]))
    assert data.examples.features.tolist() == [[1, 2], [3, 4]]
    assert data.examples.labels.tolist() == [7, 8]


def test_every_label_is_in_both_parts_and_no_row_in_two(read: Read) -> None:
    labels = np.repeat(["a", "b", "c"], [2, 10, 50])
    data = read(npz(features=np.arange(62).reshape(-1, 1), labels=labels))
    training, holdout = data.split(0.2, seed=3)
    assert set(training.labels) == set(holdout.labels) == {"a", "b", "c"}
    assert sorted([*training.features[:, 0], *holdout.features[:, 0]]) == list(range(62))
    assert len(holdout.labels) == 1 + 2 + 10
    assert np.array_equal(holdout.features, data.split(0.2, seed=3)[1].features)
    assert not np.array_equal(holdout.features, data.split(0.2, seed=4)[1].features)


class Trap:
    def __reduce__(self) -> tuple[object, ...]:
        return (pytest.fail, ("a pickle was run",))


def shortened() -> bytes:
    """An array whose header claims four terabytes."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (10**9, 500)})
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as target:
        target.writestr("features.npy", file.getvalue())
        target.writestr("labels.npy", b"")
    return archive.getvalue()


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (None, "there is no data set numbers.npz: upload it"),
        (b"", "cannot be read"),
        (b"month,amount\n1,2\n", "cannot be read"),
        (npz(features=[[1]], labels=[1])[:-40], "cannot be read"),
        (npz(features=[[1]]), "holds no array 'labels'"),
        (npz(features=np.array([[Trap()]], dtype=object), labels=[1]), "dtype object.*write features.astype.float.*"),
        (shortened(), "shorter than its header says"),
        (npz(features=np.zeros((2000, 100)), labels=np.zeros(2000)), "unpacks to more than 1048576 bytes"),
        (npz(features=[1, 2], labels=[1, 2]), r"must be \(rows, features\)"),
        (npz(features=[[1], [2]], labels=[1]), r"must be \(rows, features\)"),
        (npz(features=np.zeros((0, 3)), labels=[]), r"must be \(rows, features\)"),
        (npz(features=np.zeros((2, 5000)), labels=[1, 2]), "no prediction may bring more than 4096"),
        (npz(features=[["a"], ["b"]], labels=[1, 2]), "must be real numbers"),
        (npz(features=[[1.0], [np.nan]], labels=[1, 2]), "not finite"),
        (npz(features=[[1.0], [1e101]], labels=[1, 2]), "has 1e[+]101 in column 1, above 1e[+]100: scale it"),
        (npz(features=[[1], [2]], labels=[0.5, 1.5]), "whole numbers or strings"),
    ],
)
def test_a_data_set_that_cannot_be_used_is_refused_with_its_reason(
    read: Read, data: bytes | None, complaint: str
) -> None:
    with pytest.raises(BadDataset, match=complaint):
        read(data)


def test_a_data_set_above_the_limit_is_refused_before_it_is_read(read: Read) -> None:
    with pytest.raises(BadDataset, match="INFERENCE_DATASET_MAX_MIB"):
        read(npz(features=[[1]], labels=[1]), max_bytes=100)


@pytest.mark.parametrize(
    ("labels", "complaint"), [([1, 1, 1], "1 different labels"), ([1, 1, 2], "one row labelled 2")]
)
def test_labels_that_cannot_be_learned_are_refused(read: Read, labels: list[int], complaint: str) -> None:
    with pytest.raises(BadDataset, match=complaint):
        read(npz(features=[[1], [2], [3]], labels=labels)).split(0.5, seed=0)
