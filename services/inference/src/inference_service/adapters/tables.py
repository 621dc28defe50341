"""CSV and Parquet files as data sets: one column of labels, perhaps one of groups, the rest are features."""

import io
from typing import TYPE_CHECKING

import numpy as np

from inference_service.adapters.archives import Array, Arrays
from inference_service.errors import BadDataset

if TYPE_CHECKING:  # imported below, because only trainings on such files need it
    import polars

#: How files of gzip, zstd and zip begin.
_COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PK\x03\x04")


def read_table(key: str, data: bytes, max_bytes: int, label_column: str, group_column: str | None) -> Arrays:
    """Read a table, and take it apart.

    Raises:
        BadDataset: it cannot be read, is larger than ``max_bytes`` in memory, has no such column, or has a column that
            is neither numbers nor labels.
    """
    table = _read(key, data, max_bytes)
    if not table.height:
        raise BadDataset(f"{key} has no rows: a header alone is nothing to learn from")
    special = [label_column] if group_column is None else [label_column, group_column]
    for column in special:
        if column not in table.columns:
            found = ", ".join(map(repr, table.columns[:20]))
            raise BadDataset(f"{key} has no column {column!r} (found: {found}): name it in the job")
    names = [column for column in table.columns if column not in special]
    features = np.empty((table.height, len(names)), dtype=np.float64)
    for number, name in enumerate(names):
        features[:, number] = _numbers(key, table[name])
    groups = None if group_column is None else _words(key, table[group_column])
    return Arrays(features, _words(key, table[label_column]), names, groups)


def _read(key: str, data: bytes, max_bytes: int) -> "polars.DataFrame":
    import polars

    if data.startswith(_COMPRESSED):  # Polars would unpack it, whatever comes out
        raise BadDataset(f"{key} is compressed: upload it unpacked, or as Parquet")
    try:
        if key.endswith(".csv"):
            table = polars.read_csv(io.BytesIO(data), infer_schema_length=None)
        else:
            head = polars.scan_parquet(io.BytesIO(data))
            rows = int(head.select(polars.len()).collect().item())  # of its footer: nothing is unpacked yet
            _refuse_large(key, rows * len(head.collect_schema()), max_bytes)
            table = polars.read_parquet(io.BytesIO(data))
    except (MemoryError, BadDataset):
        raise
    # Its readers raise errors of many kinds, and one that is not even an Exception.
    except (Exception, polars.exceptions.PanicException) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise BadDataset(f"{key} cannot be read: {reason}") from error
    _refuse_large(key, table.height * table.width, max_bytes)
    return table


def _refuse_large(key: str, cells: int, max_bytes: int) -> None:
    if 8 * cells > max_bytes:
        raise BadDataset(
            f"{key} has {8 * cells:,} bytes in 64-bit numbers: raise INFERENCE_DATASET_MAX_MIB or train on a part"
        )


def _numbers(key: str, column: "polars.Series") -> Array:
    import polars

    if not (column.dtype.is_numeric() or column.dtype == polars.Boolean):
        raise BadDataset(
            f"{key} has the column {column.name!r} of type {column.dtype}: features must be numbers. Leave it out, or "
            "write numbers for its values"
        )
    if missing := column.null_count():
        raise BadDataset(f"{key} has {missing} missing values in {column.name!r}: drop or replace them first")
    numbers: Array = column.cast(polars.Float64).to_numpy()
    if column.dtype.is_integer():
        large = column.filter((column > 2**53) | (column < -(2**53))).to_list()
        if any(int(float(number)) != number for number in large):
            raise BadDataset(
                f"{key} has whole numbers above 2**53 in {column.name!r} that no 64-bit float can tell apart: subtract "
                "an offset, or leave out ids"
            )
    return numbers


def _words(key: str, column: "polars.Series") -> Array:
    """Labels or groups: whole numbers or strings, as the data set checks."""
    if missing := column.null_count():
        raise BadDataset(f"{key} has {missing} missing values in {column.name!r}: drop or replace these rows first")
    values: Array = column.to_numpy()
    if values.dtype.kind != "O":
        return values
    if not all(isinstance(value, str) for value in values):
        raise BadDataset(f"{key} has the column {column.name!r} of type {column.dtype}: write whole numbers or strings")
    return values.astype(np.str_)
