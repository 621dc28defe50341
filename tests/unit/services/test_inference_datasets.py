import contextlib
import gzip
import io
import json
import zipfile
from datetime import date
from decimal import Decimal
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import polars
import pyarrow  # type: ignore[import-untyped]  # ships no types
import pyarrow.parquet  # type: ignore[import-untyped]  # the same
import pytest

from inference_service.adapters.datasets import Dataset, Datasets
from inference_service.adapters.storage import ObjectStorage, open_storage
from inference_service.errors import BadDataset

KEY = "numbers.npz"


def npz(**arrays: npt.ArrayLike) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # none of them is called allow_pickle
    return file.getvalue()


def plain_npz(**arrays: npt.ArrayLike) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]  # the same
    return file.getvalue()


def parquet(**columns: list[Any]) -> bytes:
    file = io.BytesIO()
    polars.DataFrame(columns).write_parquet(file)
    return file.getvalue()


def written(table: Any, **options: Any) -> bytes:  # Any: of pyarrow, which has no types
    file = io.BytesIO()
    pyarrow.parquet.write_table(table, file, **options)
    return file.getvalue()


def zoned() -> bytes:
    times = pyarrow.array([1], pyarrow.timestamp("us", tz="-02:15"))  # a zone that Polars does not have
    return written(pyarrow.table({"kind": ["a"], "x": times}))


def repeated() -> bytes:
    return written(pyarrow.Table.from_arrays([pyarrow.array([1])] * 3, names=["kind", "x", "x"]))


class Read(Protocol):
    def __call__(self, data: bytes | None, *, max_bytes: int = ...) -> Dataset: ...


@pytest.fixture
def storage() -> ObjectStorage:
    return open_storage("memory:///")


@pytest.fixture
def read(storage: ObjectStorage) -> Read:
    def read(data: bytes | None, *, max_bytes: int = 2**23) -> Dataset:
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
        (npz(features=np.zeros((20_000, 100)), labels=np.zeros(20_000)), "unpacks to more than 8388608 bytes"),
        (npz(features=[1, 2], labels=[1, 2]), r"must be \(rows, features\)"),
        (npz(features=[[1], [2]], labels=[1]), r"must be \(rows, features\)"),
        (npz(features=np.zeros((0, 3)), labels=[]), r"must be \(rows, features\)"),
        (npz(features=np.zeros((2, 5000)), labels=[1, 2]), "no prediction may bring more than 4096"),
        (npz(features=[["a"], ["b"]], labels=[1, 2]), "must be real numbers"),
        (npz(features=[[1.0], [np.nan]], labels=[1, 2]), "not finite"),
        (npz(features=[[1.0], [1e101]], labels=[1, 2]), "has 1e[+]101 in column 1, above 1e[+]100: scale it"),
        (npz(features=[[1], [2]], labels=[0.5, 1.5]), "whole numbers or strings"),
        (npz(features=[[1], [2]], labels=[1.0, 2.0]), r"Write labels\.astype\('int64'\)"),
        (npz(features=[[1], [2]], labels=np.array(["a", "b"], object)), r"dtype object.*write labels\.astype\(str\)"),
        (npz(features=np.array([[1], [2.5]], object), labels=[1, 2]), r"dtype object.*write features\.astype\(float\)"),
        (npz(features=[[1], [2]], labels=[b"a", b"b"]), r"Write labels\.astype\(str\)"),
        (npz(features=[[1], [2]], labels=np.array([1, 2**63], np.uint64)), "has the label 9223372036854775808, above"),
        (npz(features=[[1], [2]], labels=["a", "b\ud800"]), r"numbers.npz has the label 'b\\ud800', which is no text"),
        (npz(features=[[1], [2]], labels=["a", "b" * 1001]), "a label of 1,001 characters, above 1,000"),
        (
            npz(features=np.zeros((1200, 1)), labels=[f"{n:0950}" for n in range(1200)]),
            "more than 1,048,576 bytes",
        ),
        (npz(features=np.zeros((10_001, 1)), labels=np.arange(10_001)), "10,001 different labels, above 10,000"),
        (npz(features=[[2**53 + 1], [5]], labels=[1, 2]), r"whole numbers above 2\*\*53 in column 1"),
        (npz(features=np.c_[np.r_[np.arange(500.0), 1e12]], labels=np.arange(501)), "501 different values in column 1"),
        (npz(features=[[1, 2]] * 2, labels=[1, 2], feature_names=["a"]), "2 features and 1 feature_names"),
        (npz(features=[[1, 2]] * 2, labels=[1, 2], feature_names=[1, 2]), "give one string per feature"),
        (npz(features=[[1, 2]] * 2, labels=[1, 2], feature_names=["a", "a"]), "two features named 'a'"),
        (npz(features=[[1, 2]] * 2, labels=[1, 2], feature_names=["a", ""]), "a feature without a name"),
        (npz(features=[[1], [2]], labels=[1, 2], groups=[1]), "groups that are not one"),
    ],
)
def test_a_data_set_that_cannot_be_used_is_refused_with_its_reason(
    read: Read, data: bytes | None, complaint: str
) -> None:
    with pytest.raises(BadDataset, match=complaint):
        read(data)


@pytest.mark.parametrize("labels", [[4006381333931, 4006381333948], [2**63 - 1, -(2**63)], [2**31, 5], ["", "ü\x00é"]])
def test_labels_are_read_as_they_are(read: Read, labels: list[int] | list[str]) -> None:
    assert read(npz(features=[[1], [2]], labels=labels)).examples.labels.tolist() == labels


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", "i1", "i4", "i8", "u8", "?", "g"])
def test_numbers_of_every_type_keep_their_value(read: Read, dtype: str) -> None:
    features = np.array([[0, 1], [1, 0]], dtype)
    numbers = read(npz(features=features, labels=[1, 2])).examples.features
    assert numbers.dtype in (np.float32, np.float64)
    assert np.array_equal(numbers, features)


def test_an_archive_with_a_wrong_byte_or_a_missing_end_is_refused_or_read_right(read: Read) -> None:
    random = np.random.default_rng(0)
    for whole in (npz(features=np.eye(20), labels=np.arange(20)), plain_npz(features=np.eye(20), labels=np.arange(20))):
        for _ in range(150):
            damaged = bytearray(whole[: random.integers(1, len(whole))] if random.random() < 0.2 else whole)
            damaged[random.integers(0, len(damaged))] ^= 1 << random.integers(0, 8)
            with contextlib.suppress(BadDataset):
                assert np.array_equal(read(bytes(damaged)).examples.features, np.eye(20))


def test_names_and_groups_are_read(read: Read) -> None:
    data = read(npz(features=[[1, 2]] * 3, labels=[1, 2, 1], feature_names=["größe", "b"], groups=["x", "y", "x"]))
    assert data.names == ("größe", "b")
    assert data.groups is not None
    assert data.groups.tolist() == [0, 1, 0]


CSV = b"height,kind,weight,who\n1.8,tall,80,1\n1.6,small,60,2\n1.7,small,,3\n"


def test_a_csv_file_has_its_columns_as_features(storage: ObjectStorage) -> None:
    storage.put("people.csv", CSV.replace(b",,", b",70,"))
    data = Datasets(storage, 2**20).read("people.csv", label_column="kind", group_column="who")
    assert data.names == ("height", "weight")
    assert data.examples.features.tolist() == [[1.8, 80], [1.6, 60], [1.7, 70]]
    assert data.examples.labels.tolist() == ["tall", "small", "small"]
    assert data.groups is not None
    assert data.groups.tolist() == [0, 1, 2]


def test_a_parquet_file_has_its_columns_as_features(storage: ObjectStorage) -> None:
    file = io.BytesIO()
    polars.DataFrame({"a": [1, 2], "label": [2**40, 7], "b": [True, False]}).write_parquet(file)
    storage.put("people.parquet", file.getvalue())
    data = Datasets(storage, 2**20).read("people.parquet")
    assert (data.names, data.examples.features.tolist()) == (("a", "b"), [[1, 1], [2, 0]])
    assert data.examples.labels.tolist() == [2**40, 7]


@pytest.mark.parametrize(
    ("key", "data", "complaint"),
    [
        ("a.csv", CSV, "1 missing values in 'weight'"),
        ("a.csv", CSV.replace(b"80", b"heavy"), "column 'weight' of type String: features must be numbers"),
        ("a.csv", b"height\n1\n2\n", r"no column 'kind' \(found: 'height'\)"),
        ("a.csv", b"kind,x\na,9007199254740993\nb,1\n", "above 2[*][*]53 in 'x'"),
        ("a.csv", b"kind,x\na,1\n,2\n", "1 missing values in 'kind'"),
        ("a.csv", b"", "cannot be read"),
        ("a.csv", gzip.compress(CSV, mtime=0), "is compressed: upload it unpacked"),
        ("a.csv", b"kind,x\n", "has no rows"),
        ("a.csv", b"kind,x\na,9007199254740993\nb,1.5\n", "above 2[*][*]53 in 'x'"),
        ("a.csv", b"kind,x,kind\na,1,a\nb,2,b\n", "two columns named 'kind'"),
        ("a.csv", b"kind,x,x\na,1,1\nb,2,2\n", "two columns named 'x'"),
        ("a.csv", b"kind,x\n1.0,1\n2,2\n", "has 1.0 in 'kind'"),
        ("a.csv", b"kind,x\na,1\na\0,2\n", "NUL character in 'kind'"),
        (
            "a.csv",
            b"kind,x\n" + b"a" * 5000 + b",1\n" + b"b,2\n" * 100,
            "needs 2,020,000 bytes for the words in 'kind'",
        ),
        ("a.csv", b"5.1,3.5,Iris\n4.9,3.0,Iris\n", "no column 'kind'.*If the first line is data, put a header"),
        ("a.csv", b"1,1,Iris\n4,3,Iris\n", "no column 'kind'.*If the first line is data, put a header"),
        ("a.csv", b"kind,x\na,1\nb,2,3\n", "more fields in row 3 than the 2 names of its header"),
        ("a.csv", b"x;kind\n1;a\n2;b\n", "no column 'kind'.*Separate the columns by commas"),
        ("a.csv", b"kind\na\nb\n", "has no columns but 'kind': features are missing"),
        ("a.parquet", b"PAR1 and no more", "cannot be read"),
        ("a.parquet", parquet(kind=["a", "b"]), "has no columns but 'kind': features are missing"),
        ("a.parquet", parquet(kind=[{"a": 1}, {"a": 2}], x=[1, 2]), "column 'kind' of type struct.*: write whole"),
        ("a.parquet", parquet(kind=[date(2026, 1, 1)], x=[1]), "column 'kind' of type date.*: write whole"),
        ("a.parquet", parquet(kind=["a"], x=[[1, 2]]), "column 'x' of type .*list.*: features must be numbers"),
        ("a.parquet", zoned(), "column 'x' of type timestamp.*: features must be numbers"),
        ("a.parquet", repeated(), "two columns named 'x'"),
        ("a.parquet", parquet(kind=["a", "b"], x=[Decimal(2**53 + 1), Decimal(1)]), "above 2[*][*]53 in 'x'"),
        ("a.parquet", parquet(kind=["a", "b"], x=["1", "2"]), "column 'x' of type String: features must be numbers"),
        ("a.parquet", parquet(x=[1, 2]), r"no column 'kind' \(found: 'x'\)"),
        ("a.parquet", parquet(kind=[b"a", b"b"], x=[1, 2]), "column 'kind' of type Binary: write whole numbers or"),
        ("a.parquet", parquet(kind=["a" * 5000] + ["b"] * 100, x=[1] * 101), "needs 2,020,000 bytes for the words"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_with_its_reason(
    storage: ObjectStorage, key: str, data: bytes, complaint: str
) -> None:
    storage.put(key, data)
    with pytest.raises(BadDataset, match=complaint):
        Datasets(storage, 2**20).read(key, label_column="kind")


@pytest.mark.parametrize(
    ("written", "labels"),
    [
        (["007", "7"], ["007", "7"]),
        (["true", "false"], ["true", "false"]),
        (["1e5", "2e7"], ["1e5", "2e7"]),
        (["-4", "4006381333931"], [-4, 4006381333931]),
        (["9223372036854775809", "9223372036854775810"], ["9223372036854775809", "9223372036854775810"]),
        (["x ", "Ärger"], ["x ", "Ärger"]),
    ],
)
def test_labels_of_a_csv_file_are_read_as_they_are_written(
    storage: ObjectStorage, written: list[str], labels: list[int] | list[str]
) -> None:
    storage.put("a.csv", "\n".join(["\ufeffx,label,who", f"1,{written[0]},07", f"2,{written[1]},7"]).encode())
    data = Datasets(storage, 2**20).read("a.csv", group_column="who")
    assert data.examples.labels.tolist() == labels
    assert data.groups is not None
    assert data.groups.tolist() == [0, 1]


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"])
def test_numbers_of_a_parquet_file_may_be_of_any_type(storage: ObjectStorage, dtype: str) -> None:
    numbers = np.array([1, 100], dtype)
    labels = np.array([0, 1], "i1" if dtype.startswith("f") else dtype)
    storage.put("a.parquet", written(pyarrow.table({"x": numbers, "label": labels})))
    examples = Datasets(storage, 2**20).read("a.parquet").examples
    assert examples.features.tolist() == [[1.0], [100.0]]
    assert examples.labels.tolist() == [0, 1]


def test_whole_numbers_without_a_sign_are_refused_where_they_cannot_be_held(storage: ObjectStorage) -> None:
    numbers = np.array([1, 2**63 + 1], np.uint64)
    storage.put("a.parquet", written(pyarrow.table({"x": numbers, "label": [0, 1]})))
    with pytest.raises(BadDataset, match=r"above 2\*\*53 in 'x'"):
        Datasets(storage, 2**20).read("a.parquet")


@pytest.mark.parametrize("encoding", ["PLAIN", "DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY"])
def test_words_of_a_parquet_file_may_be_in_any_encoding(storage: ObjectStorage, encoding: str) -> None:
    table = pyarrow.table({"x": [1, 2, 3], "label": ["b", "a", "b"]})
    storage.put("a.parquet", written(table, use_dictionary=False, column_encoding={"label": encoding}))
    assert Datasets(storage, 2**20).read("a.parquet").examples.labels.tolist() == ["b", "a", "b"]


def test_words_without_a_dictionary_are_not_unpacked_above_the_limit(storage: ObjectStorage) -> None:
    table = pyarrow.table({"x": [1] * 100, "label": ["a" * 20_000] * 100})
    options = {"use_dictionary": False, "column_encoding": {"label": "DELTA_LENGTH_BYTE_ARRAY"}}
    storage.put("a.parquet", written(table, compression="zstd", **options))
    with pytest.raises(BadDataset, match="bytes in labels"):
        Datasets(storage, 2**20).read("a.parquet")


def test_the_index_of_a_pandas_frame_is_no_feature(storage: ObjectStorage) -> None:
    table = pyarrow.table({"x": [1.5, 2.5], "label": ["a", "b"], "__index_level_0__": [3, 7], "id": [5, 6]})
    index = {"index_columns": ["__index_level_0__", "id"], "columns": [], "column_indexes": []}
    file = io.BytesIO()
    pyarrow.parquet.write_table(table.replace_schema_metadata({"pandas": json.dumps(index)}), file)
    storage.put("a.parquet", file.getvalue())
    data = Datasets(storage, 2**20).read("a.parquet", group_column="id")
    assert (data.names, data.examples.features.tolist()) == (("x",), [[1.5], [2.5]])
    assert data.groups is not None
    assert data.groups.tolist() == [0, 1]
    storage.put("a.csv", b",x,label\n0,1.5,a\n1,2.5,b\n")
    with pytest.raises(BadDataset, match=r"feature without a name: .* index=False"):
        Datasets(storage, 2**20).read("a.csv")


def test_categories_are_labels(storage: ObjectStorage) -> None:
    file = io.BytesIO()
    polars.DataFrame({"x": [1, 2], "label": polars.Series(["b", "a"], dtype=polars.Categorical)}).write_parquet(file)
    storage.put("a.parquet", file.getvalue())
    assert Datasets(storage, 2**20).read("a.parquet").examples.labels.tolist() == ["b", "a"]


def test_a_parquet_file_with_a_wrong_byte_is_refused_or_read_and_ends_no_process(storage: ObjectStorage) -> None:
    whole = parquet(a=[1.5, 2.5], label=["x", "y"])
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 0x55
        storage.put("a.parquet", bytes(damaged))
        with contextlib.suppress(BadDataset):
            assert len(Datasets(storage, 2**20).read("a.parquet").examples.labels) == 2


def test_a_parquet_file_that_unpacks_to_more_than_the_limit_is_not_unpacked(storage: ObjectStorage) -> None:
    file = io.BytesIO()
    polars.DataFrame({"a": np.zeros(1_000_000), "label": np.zeros(1_000_000, np.int64)}).write_parquet(file)
    assert len(file.getvalue()) < 2**16
    storage.put("bomb.parquet", file.getvalue())
    with pytest.raises(BadDataset, match="16,000,000 bytes in 64-bit numbers: raise INFERENCE_DATASET_MAX_MIB"):
        Datasets(storage, 2**20).read("bomb.parquet")


def test_a_data_set_above_the_limit_is_refused_before_it_is_read(read: Read) -> None:
    with pytest.raises(BadDataset, match="INFERENCE_DATASET_MAX_MIB"):
        read(npz(features=[[1]], labels=[1]), max_bytes=100)


@pytest.mark.parametrize(
    ("labels", "complaint"), [([1, 1, 1], "1 different labels"), ([1, 1, 2], "one row labelled 2")]
)
def test_labels_that_cannot_be_learned_are_refused(read: Read, labels: list[int], complaint: str) -> None:
    with pytest.raises(BadDataset, match=complaint):
        read(npz(features=[[1], [2], [3]], labels=labels)).split(0.5, seed=0)
