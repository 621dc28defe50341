"""Data sets: what a training learns from, and what it is measured on."""

import io
import math
import zipfile
import zlib
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import numpy.typing as npt

from inference_service.adapters.storage import Storage
from inference_service.errors import BadDataset
from jobkit.contracts.inference import MAX_FEATURES

Features = npt.NDArray[np.float32]  #: Rows x features.
Labels = npt.NDArray[np.int64] | npt.NDArray[np.str_]  #: One per row.


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
    """

    key: str
    digest: str
    examples: Examples

    @property
    def labels(self) -> Labels:
        """The different labels, sorted."""
        names: Labels = np.unique(self.examples.labels)  # type: ignore[assignment]  # forgets the union's types
        return names

    def split(self, holdout: float, seed: int) -> tuple[Examples, Examples]:
        """Training and hold-out rows, every label in both, ``holdout`` of each label's rows in the latter.

        Raises:
            BadDataset: there are fewer than two labels, or one of them has a single row.
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
        random = np.random.default_rng(seed)
        kept_back = np.zeros(len(labels), dtype=bool)
        for name, count in zip(names, counts, strict=True):
            size = min(max(1, round(holdout * count)), count - 1)
            kept_back[random.permutation(np.flatnonzero(labels == name))[:size]] = True
        return Examples(features[~kept_back], labels[~kept_back]), Examples(features[kept_back], labels[kept_back])


@dataclass(frozen=True)
class Datasets:
    """The data sets in storage.

    Attributes:
        max_bytes: The largest one that is read, packed and unpacked: it must fit into memory.
    """

    storage: Storage
    max_bytes: int

    def read(self, key: str) -> Dataset:
        """Read a ``.npz`` file with the arrays ``features`` and ``labels``.

        Raises:
            BadDataset: the file is missing, too large, damaged, or does not hold two such arrays.
            StorageUnavailable: the storage cannot answer.
        """
        try:
            data = self.storage.get(key, max_bytes=self.max_bytes)
        except ValueError as error:
            raise BadDataset(f"{key}: {error}: raise INFERENCE_DATASET_MAX_MIB or train on a part") from None
        if data is None:
            raise BadDataset(f"there is no data set {key}: upload it, then retry the job")
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                features, labels = self._array(archive, "features"), self._array(archive, "labels")
        # Each is what zipfile or NumPy raises for one way of being damaged (RuntimeError: encrypted).
        except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, RuntimeError) as error:
            raise BadDataset(
                f"{key} cannot be read: {error}: write it with numpy.savez(features=…, labels=…)"
            ) from error
        return Dataset(key, sha256(data).hexdigest(), _examples(key, features, labels))

    def _array(self, archive: zipfile.ZipFile, name: str) -> npt.NDArray[np.generic]:
        member = f"{name}.npy"
        if member not in archive.namelist():
            raise ValueError(f"it holds no array {name!r}")
        if archive.getinfo(member).file_size > self.max_bytes:
            raise ValueError(f"array {name!r} unpacks to more than {self.max_bytes} bytes")
        with archive.open(member) as file:
            content = io.BytesIO(file.read())
        read_header = np.lib.format.read_array_header_1_0
        if np.lib.format.read_magic(content) != (1, 0):
            read_header = np.lib.format.read_array_header_2_0
        shape, _, kind = read_header(content)
        # NumPy allocates what the header claims before it reads a byte.
        if not kind.hasobject and math.prod(shape) * kind.itemsize > len(content.getbuffer()):
            raise ValueError(f"array {name!r} is shorter than its header says")
        content.seek(0)
        array: npt.NDArray[np.generic] = np.lib.format.read_array(content, allow_pickle=False)
        return array


def _examples(key: str, features: npt.NDArray[np.generic], labels: npt.NDArray[np.generic]) -> Examples:
    if features.ndim != 2 or labels.ndim != 1 or len(features) != len(labels) or not features.size:
        raise BadDataset(
            f"{key} has features of shape {features.shape} and labels of shape {labels.shape}: "
            "they must be (rows, features) and (rows,)"
        )
    if features.shape[1] > MAX_FEATURES:
        raise BadDataset(f"{key} has {features.shape[1]} features: no prediction may bring more than {MAX_FEATURES}")
    if features.dtype.kind not in "fiub":
        raise BadDataset(f"{key} has features of type {features.dtype}: they must be real numbers")
    with np.errstate(over="ignore"):  # what does not fit into 32 bits becomes infinite, and is refused below
        numbers = features.astype(np.float32)
    if not np.isfinite(numbers).all():
        raise BadDataset(f"{key} has features that are not finite 32-bit numbers: drop or replace them first")
    if labels.dtype.kind in "iub":
        return Examples(numbers, labels.astype(np.int64))
    if labels.dtype.kind == "U":
        return Examples(numbers, labels.astype(np.str_))
    raise BadDataset(f"{key} has labels of type {labels.dtype}: they must be whole numbers or strings")
