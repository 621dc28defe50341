"""Data sets: what a training learns from, and what it is measured on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import numpy.typing as npt

from inference_service.adapters.archives import Arrays, read_archive
from inference_service.adapters.splits import kept_back
from inference_service.adapters.storage import Storage
from inference_service.adapters.tables import read_table
from inference_service.errors import BadDataset
from jobkit.contracts.inference import MAX_FEATURES, MAX_NAME

Features = npt.NDArray[np.floating]  #: Rows x features, in 32 or 64 bits.
Labels = npt.NDArray[np.int64] | npt.NDArray[np.str_]  #: One per row.

LARGEST = 1e100  #: Of a feature's magnitude. Its square, summed over all rows, must fit into 64 bits.
MAX_LABELS = 10_000  #: Different labels: the card that names them is read for each prediction.
LONGEST_LABEL = 1_000  #: Characters; a label stands in each answer.
ALL_LABELS = 2**20  #: Bytes of the different labels together, for the same reason as their number.
SAMPLE = 10_000  #: Rows that are looked at to tell whether 32 bits can hold a column's differences.


@dataclass(frozen=True)
class Examples:
    """Rows with their labels."""

    features: Features
    labels: Labels


@dataclass(frozen=True)
class Dataset:
    """A data set as it was read: finite features, whole numbers or strings as labels.

    Attributes:
        digest: SHA-256 of the file, in hex.
        names: The features' names, if the file has them.
        groups: One number per row; rows of one group stay together. None if the file has no groups.
    """

    key: str
    digest: str
    examples: Examples
    names: tuple[str, ...] | None = None
    groups: npt.NDArray[np.int64] | None = None

    @property
    def labels(self) -> Labels:
        """The different labels, sorted."""
        names: Labels = np.unique(self.examples.labels)  # type: ignore[assignment]  # forgets the union's types
        return names

    def split(self, holdout: float, seed: int) -> tuple[Examples, Examples]:
        """Training and hold-out rows, ``holdout`` of each label's rows in the latter.

        Rows of one group are in the same part, and so are equal rows. Every label is in the training part. It is in the
        hold-out part too, unless all of its rows are in one group.

        Raises:
            BadDataset: there are fewer than two labels, or one of them has a single row, or all rows are in one group.
        """
        features, labels = self.examples.features, self.examples.labels
        names, counts = np.unique(labels, return_counts=True)
        if len(names) < 2:
            raise BadDataset(f"{self.key} has {len(names)} different labels: a classifier needs two or more")
        if counts.min() < 2:
            lonely = names[counts.argmin()]
            raise BadDataset(
                f"{self.key} has one row labelled {lonely}: give each label two or more, one to be held out"
            )
        back = kept_back(features, labels, self.groups, holdout, seed)
        if not back.any():
            raise BadDataset(
                f"{self.key} has each label in one group only: no row can be held out. Make smaller groups"
            )
        return Examples(features[~back], labels[~back]), Examples(features[back], labels[back])


@dataclass(frozen=True)
class Datasets:
    """The data sets in storage.

    Attributes:
        max_bytes: The largest one that is read, packed and unpacked: it must fit into memory.
    """

    storage: Storage
    max_bytes: int

    def read(self, key: str, *, label_column: str = "label", group_column: str | None = None) -> Dataset:
        """Read a ``.npz``, ``.csv`` or ``.parquet`` file; see ``TrainModel`` for what it must hold.

        Raises:
            BadDataset: the file is missing, too large, damaged, or does not hold what a training needs.
            StorageUnavailable: the storage cannot answer.
        """
        try:
            data = self.storage.get(key, max_bytes=self.max_bytes)
        except ValueError as error:
            raise BadDataset(f"{key}: {error}: raise INFERENCE_DATASET_MAX_MIB or train on a part") from None
        if data is None:
            raise BadDataset(f"there is no data set {key}: upload it, then retry the job")
        if key.endswith(".npz"):
            arrays = read_archive(key, data, self.max_bytes)
        else:
            arrays = read_table(key, data, self.max_bytes, label_column, group_column)
        digest = sha256(data).hexdigest()
        del data  # a training needs the memory
        return _dataset(key, digest, arrays)


def _dataset(key: str, digest: str, arrays: Arrays) -> Dataset:
    features, labels = arrays.features, arrays.labels
    if features.ndim != 2 or labels.ndim != 1 or len(features) != len(labels) or not features.size:
        raise BadDataset(
            f"{key} has features of shape {features.shape} and labels of shape {labels.shape}: "
            "they must be (rows, features) and (rows,)"
        )
    if features.shape[1] > MAX_FEATURES:
        raise BadDataset(f"{key} has {features.shape[1]} features: no prediction may bring more than {MAX_FEATURES}")
    names = _names(key, arrays.names, features.shape[1])
    numbers = _features(key, features, names)
    groups = None
    if arrays.groups is not None:
        if arrays.groups.shape != labels.shape or arrays.groups.dtype.kind not in "iubU":
            raise BadDataset(f"{key} has groups that are not one whole number or string per row: write such an array")
        groups = np.unique(arrays.groups, return_inverse=True)[1].astype(np.int64)
    return Dataset(key, digest, Examples(numbers, _labels(key, labels)), names, groups)


def _names(key: str, names: npt.NDArray[np.generic] | Sequence[str] | None, width: int) -> tuple[str, ...] | None:
    if names is None:
        return None
    found = tuple(names.tolist() if isinstance(names, np.ndarray) else names)
    if len(found) != width or not all(isinstance(name, str) for name in found):
        raise BadDataset(f"{key} has {width} features and {len(found)} feature_names: give one string per feature")
    if "" in found:
        raise BadDataset(
            f"{key} has a feature without a name: give it one. If it is the index of a pandas frame, which is "
            "nothing to learn from, write the file with index=False"
        )
    for name in found:
        if not 1 <= len(name) <= MAX_NAME or not _is_text(name):
            raise BadDataset(f"{key} has a feature named {name[:50]!r}: a name has 1 to {MAX_NAME} characters")
    if len(set(found)) < width:
        twice = next(name for name in found if found.count(name) > 1)
        raise BadDataset(f"{key} has two features named {twice!r}: give each a name of its own")
    return found


def _features(key: str, features: npt.NDArray[np.generic], names: tuple[str, ...] | None) -> Features:
    if features.dtype.kind not in "fiub":
        raise BadDataset(f"{key} has features of type {features.dtype}: they must be real numbers")
    if features.dtype in (np.float32, np.float64):
        numbers: Features = features  # type: ignore[assignment]  # mypy cannot tell from the comparison
    else:
        # Half the memory where all are exact in 32 bits.
        small = features.dtype.kind == "b" or features.dtype.itemsize <= 2
        with np.errstate(over="ignore"):  # what is too large for 64 bits becomes infinite, and is refused below
            numbers = features.astype(np.float32 if small else np.float64)
        if features.dtype.kind in "iu" and features.dtype.itemsize == 8:
            _refuse_inexact(key, features, numbers, names)
    lowest, highest = numbers.min(axis=0), numbers.max(axis=0)  # NaN where one is
    if not (np.isfinite(lowest).all() and np.isfinite(highest).all()):
        column = int((np.isfinite(lowest) & np.isfinite(highest)).argmin())
        raise BadDataset(
            f"{key} has features that are not finite numbers, in {_column(column, names)}: drop or replace them first"
        )
    largest = np.maximum(np.abs(lowest), np.abs(highest)).astype(np.float64)
    if largest.max() > LARGEST:
        raise BadDataset(
            f"{key} has {largest.max():.3g} in {_column(int(largest.argmax()), names)}, above {LARGEST:g}: scale it"
        )
    _refuse_what_would_become_equal(key, numbers, names)
    return numbers


def _refuse_inexact(
    key: str, features: npt.NDArray[np.generic], numbers: Features, names: tuple[str, ...] | None
) -> None:
    whole = np.abs(numbers) >= 2**53
    for column in np.flatnonzero(whole.any(axis=0)):
        exact = [int(float(number)) == number for number in features[whole[:, column], column].tolist()]
        if not all(exact):
            raise BadDataset(
                f"{key} has whole numbers above 2**53 in {_column(int(column), names)} that no 64-bit float can tell "
                "apart: subtract an offset, or leave out ids"
            )


def _refuse_what_would_become_equal(key: str, numbers: Features, names: tuple[str, ...] | None) -> None:
    # The network sees each column in 32 bits, after its mean is subtracted and its deviation is 1.
    step = math.ceil(len(numbers) / SAMPLE)
    for column in range(numbers.shape[1]):
        values = np.unique(numbers[::step, column].astype(np.float64))
        largest = np.abs(values - values.mean()).max()
        if largest == 0:
            continue
        seen = (values - values.mean()) / largest
        kept = len(np.unique(seen.astype(np.float32)))
        if kept < len(values) / 2:
            raise BadDataset(
                f"{key} has {len(values)} different values in {_column(column, names)}, from {values[0]:.6g} to "
                f"{values[-1]:.6g}, and 32 bits tell {kept} of them apart: take the logarithm, or drop the outliers"
            )


def _column(number: int, names: tuple[str, ...] | None) -> str:
    return f"column {names[number]!r}" if names else f"column {number + 1}"


def _labels(key: str, labels: npt.NDArray[np.generic]) -> Labels:
    kind = labels.dtype.kind
    if kind not in "iubU":
        if kind == "f" and bool((labels == np.floor(labels)).all()):
            raise BadDataset(
                f"{key} has labels of type {labels.dtype}: they must be whole numbers or strings. "
                "Write labels.astype('int64')"
            )
        raise BadDataset(
            f"{key} has labels of type {labels.dtype}: they must be whole numbers or strings. Write labels.astype(str)"
        )
    if kind == "u" and labels.max() > np.uint64(2**63 - 1):
        raise BadDataset(f"{key} has the label {labels.max()}, above 2**63 - 1: write labels.astype(str)")
    names = np.unique(labels)
    if len(names) > MAX_LABELS:
        raise BadDataset(f"{key} has {len(names):,} different labels, above {MAX_LABELS:,}: group the rare ones")
    if kind != "U":
        return labels.astype(np.int64)
    for name in names.tolist():
        if not isinstance(name, str) or not _is_text(name):
            raise BadDataset(f"{key} has the label {name!r}, which is no text: replace the lone surrogates in it")
        if len(name) > LONGEST_LABEL:
            raise BadDataset(f"{key} has a label of {len(name):,} characters, above {LONGEST_LABEL:,}: shorten it")
    if sum(len(name.encode()) for name in names.tolist()) > ALL_LABELS:
        raise BadDataset(f"{key} has labels of more than {ALL_LABELS:,} bytes together: shorten them")
    return labels.astype(np.str_)


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
