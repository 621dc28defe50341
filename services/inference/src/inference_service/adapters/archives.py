"""NumPy's ``.npz`` archives, read without trust in what they claim."""

import io
import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from inference_service.errors import BadDataset

Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Arrays:
    """What a data set's file holds, unchecked."""

    features: Array
    labels: Array
    names: Array | Sequence[str] | None = None
    groups: Array | None = None


def read_archive(key: str, data: bytes, max_bytes: int) -> Arrays:
    """Read the arrays ``features`` and ``labels``, and ``feature_names`` and ``groups`` if they are there.

    Raises:
        BadDataset: the archive is damaged, or one of its arrays unpacks to more than ``max_bytes``.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = set(archive.namelist())
            return Arrays(
                _array(archive, "features", max_bytes),
                _array(archive, "labels", max_bytes),
                _array(archive, "feature_names", max_bytes) if "feature_names.npy" in members else None,
                _array(archive, "groups", max_bytes) if "groups.npy" in members else None,
            )
    except MemoryError:
        raise
    except Exception as error:  # zipfile, its decompressors and NumPy have an error for each way of being damaged
        reason = str(error) or type(error).__name__
        advice = "write it with numpy.savez(file, features=…, labels=…)"
        raise BadDataset(f"{key} cannot be read: {reason}: {advice}") from error


def _array(archive: zipfile.ZipFile, name: str, max_bytes: int) -> Array:
    member = f"{name}.npy"
    if member not in archive.namelist():
        raise ValueError(f"it holds no array {name!r}")
    if archive.getinfo(member).file_size > max_bytes:
        raise ValueError(f"array {name!r} unpacks to more than {max_bytes} bytes")
    with archive.open(member) as file:
        content = io.BytesIO(file.read())
    read_header = np.lib.format.read_array_header_1_0
    if np.lib.format.read_magic(content) != (1, 0):
        read_header = np.lib.format.read_array_header_2_0
    shape, _, kind = read_header(content)
    if kind.hasobject:
        # Also what NumPy says of it, so that a search for its words leads here.
        raise ValueError(
            f"array {name!r} has dtype object, as columns of pandas often do, and pickled objects are not loaded "
            f"(allow_pickle is off): write {name}.astype({_advice(name)})"
        )
    # NumPy allocates what the header claims before it reads a byte.
    if math.prod(shape) * kind.itemsize > len(content.getbuffer()):
        raise ValueError(f"array {name!r} is shorter than its header says")
    content.seek(0)
    array: Array = np.lib.format.read_array(content, allow_pickle=False)
    return array


def _advice(name: str) -> str:
    return "float" if name == "features" else "str"
