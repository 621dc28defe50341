"""CSV and Parquet files as data sets: one column of labels, perhaps one of groups, the rest are features."""

import csv
import io
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from inference_service.adapters.archives import Array, Arrays
from inference_service.errors import BadDataset

if TYPE_CHECKING:  # imported below, because only trainings on such files need them
    import polars
    import pyarrow  # type: ignore[import-untyped]  # ships no types
    import pyarrow.parquet  # type: ignore[import-untyped]  # the same

#: How files of gzip, zstd and zip begin.
_COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PK\x03\x04")

#: A whole number as it is printed. Codes like 007 and +1 are words: as numbers they would become other ones.
_WHOLE = r"^(0|-?[1-9][0-9]{0,18})$"
_WHOLE_WITH_POINT = r"^-?[0-9]+(\.0*)?$"


def read_table(key: str, data: bytes, max_bytes: int, label_column: str, group_column: str | None) -> Arrays:
    """Read a table, and take it apart.

    Raises:
        BadDataset: it cannot be read, is larger than ``max_bytes`` in memory, has no such column, or has a column that
            is neither numbers nor labels.
    """
    import polars

    if data.startswith(_COMPRESSED):  # Polars would unpack it, whatever comes out
        raise BadDataset(f"{key} is compressed: upload it unpacked, or as Parquet")
    special = [label_column] if group_column is None else [label_column, group_column]
    read = _read_csv if key.endswith(".csv") else _read_parquet
    try:
        table = read(key, data, max_bytes, special)
    except (MemoryError, BadDataset):
        raise
    # Its readers raise errors of many kinds, and one that is not even an Exception.
    except (Exception, polars.exceptions.PanicException) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise BadDataset(f"{key} cannot be read: {reason}") from error
    if not table.height:
        raise BadDataset(f"{key} has no rows: a header alone is nothing to learn from")
    names = [column for column in table.columns if column not in special]
    if not names:
        raise BadDataset(
            f"{key} has no columns but {', '.join(map(repr, special))}: features are missing{_separated(special)}"
        )
    features = np.empty((table.height, len(names)), dtype=np.float64)
    for number, name in enumerate(names):
        features[:, number] = _numbers(key, table[name])
    labels, *groups = (_words(key, table[column], max_bytes) for column in special)
    return Arrays(features, labels, names, groups[0] if groups else None)


def _read_csv(key: str, data: bytes, max_bytes: int, special: Sequence[str]) -> "polars.DataFrame":
    import polars

    # Polars gives a repeated name another one, and a second column of labels would be a feature that knows the answer.
    head = polars.read_csv(io.BytesIO(data), has_header=False, n_rows=1, infer_schema=False, truncate_ragged_lines=True)
    header = [name or "" for name in head.row(0)]
    _refuse_missing(key, header, special)
    _refuse_repeated(key, header)
    _refuse_columns(key, polars.DataFrame(schema=dict.fromkeys(header, polars.Float64)), special)
    text = dict.fromkeys(special, polars.String)  # as it is written: 007 and 7 are two labels
    try:
        table = polars.read_csv(io.BytesIO(data), infer_schema_length=None, schema_overrides=text)
    except polars.exceptions.PolarsError as error:
        if (number := _first_longer(data, len(header))) is not None:
            raise BadDataset(
                f"{key} has more fields in row {number} than the {len(header)} names of its header: give each column "
                "a name, and quote a field with a comma"
            ) from error
        raise
    _refuse_large(key, table.height * table.width, max_bytes)
    large = [name for name in table.columns if table[name].dtype.is_float() and _reach(table[name]) >= 2**53]
    if large:  # such a column has other numbers than whole ones, too, and was rounded when it was read
        texts = polars.read_csv(io.BytesIO(data), columns=large, schema_overrides=dict.fromkeys(large, polars.String))
        for name in large:
            whole = texts[name].filter(texts[name].str.contains(_WHOLE_WITH_POINT)).to_list()
            _refuse_inexact(key, name, [int(number.partition(".")[0]) for number in whole])
    for name in special:
        table = table.with_columns(_as_written(key, table[name]))
    return table


def _first_longer(data: bytes, width: int) -> int | None:
    """The number of the first row, counted with the header, that has more than ``width`` fields."""
    with (
        io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", errors="replace", newline="") as text,
        suppress(csv.Error),
    ):
        for number, row in enumerate(csv.reader(text), start=1):
            if len(row) > width:
                return number
    return None


def _reach(column: "polars.Series") -> float:
    largest = column.abs().max()
    return largest if isinstance(largest, float) else 0.0  # there are missing values only


def _as_written(key: str, texts: "polars.Series") -> "polars.Series":
    """Labels or groups of a CSV file: numbers if all of them are whole ones of 64 bits, else strings."""
    import polars

    if texts.str.contains(_WHOLE).all():
        numbers = texts.cast(polars.Int64, strict=False)
        return texts if numbers.null_count() > texts.null_count() else numbers
    points = texts.filter(texts.str.contains(".", literal=True))
    if len(points) and texts.cast(polars.Float64, strict=False).null_count() == texts.null_count():
        raise BadDataset(
            f"{key} has {points[0]} in {texts.name!r}: labels and groups are whole numbers or words. Write it without "
            "a point, or as a word"
        )
    return texts


def _read_parquet(key: str, data: bytes, max_bytes: int, special: Sequence[str]) -> "polars.DataFrame":
    import polars
    import pyarrow
    import pyarrow.parquet

    # Not with Polars: one wrong byte makes it ask for exabytes, which ends the process.
    footer = pyarrow.parquet.read_metadata(pyarrow.BufferReader(data))  # nothing is unpacked yet
    schema = footer.schema.to_arrow_schema()
    _refuse_large(key, footer.num_rows * len(schema), max_bytes)
    # Numbers of rows are nothing to learn from, and tell the label where rows are sorted by it.
    index = (schema.pandas_metadata or {}).get("index_columns", [])
    columns = [name for name in schema.names if name in special or name not in index]
    _refuse_missing(key, columns, special)
    _refuse_repeated(key, columns)
    _refuse_arrow_types(key, schema, columns, special)
    _refuse_columns(key, polars.DataFrame(schema.empty_table().select(columns)), special)

    def read(words: Sequence[str]) -> "pyarrow.Table":
        with pyarrow.parquet.ParquetFile(
            pyarrow.BufferReader(data), read_dictionary=list(words), page_checksum_verification=True
        ) as file:
            return file.read(columns, use_threads=False)

    try:
        table = read(special)  # long words stay in a dictionary: they may be repeated in every row
    except (OSError, pyarrow.ArrowNotImplementedError) as error:
        if "implemented" not in str(error):
            raise
        # Words in an encoding that pyarrow makes no dictionary of.
        size = _unpacked(footer, special)
        if size > max_bytes:
            raise BadDataset(f"{key} has {size:,} bytes in labels: raise INFERENCE_DATASET_MAX_MIB") from None
        table = read([])
    table.validate(full=True)
    return polars.DataFrame(table)


def _unpacked(footer: "pyarrow.parquet.FileMetaData", names: Sequence[str]) -> int:
    """The bytes of these columns, as the file says."""
    groups = (footer.row_group(number) for number in range(footer.num_row_groups))
    chunks = (group.column(number) for group in groups for number in range(group.num_columns))
    return sum(int(chunk.total_uncompressed_size) for chunk in chunks if chunk.path_in_schema in names)


def _refuse_arrow_types(key: str, schema: "pyarrow.Schema", columns: Sequence[str], special: Sequence[str]) -> None:
    """Refuse what neither can be a feature nor a label, before other readers fail on it in their own words."""
    from pyarrow import types

    for name in columns:
        kind = schema.field(name).type
        if name in special:
            if types.is_nested(kind) or types.is_temporal(kind):
                raise BadDataset(f"{key} has the column {name!r} of type {kind}: write whole numbers or strings")
        elif types.is_nested(kind) or types.is_temporal(kind):
            raise BadDataset(_no_feature(key, name, str(kind)))


def _refuse_large(key: str, cells: int, max_bytes: int) -> None:
    if 8 * cells > max_bytes:
        raise BadDataset(
            f"{key} has {8 * cells:,} bytes in 64-bit numbers: raise INFERENCE_DATASET_MAX_MIB or train on a part"
        )


def _refuse_missing(key: str, columns: Sequence[str], special: Sequence[str]) -> None:
    for name in special:
        if name not in columns:
            found = ", ".join(map(repr, columns[:20]))
            headless = any(_is_number(column) for column in columns)
            hint = ". If the first line is data, put a header with the columns' names before it" if headless else ""
            hint = _separated(columns) or hint
            raise BadDataset(f"{key} has no column {name!r} (found: {found}): name it in the job{hint}")


def _separated(columns: Sequence[str]) -> str:
    return ". Separate the columns by commas" if len(columns) == 1 and re.search(r"[;\t| ]", columns[0]) else ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _refuse_repeated(key: str, columns: Sequence[str]) -> None:
    if twice := [name for name in dict.fromkeys(columns) if columns.count(name) > 1]:
        raise BadDataset(f"{key} has two columns named {twice[0]!r}: give each a name of its own")


def _refuse_columns(key: str, table: "polars.DataFrame", special: Sequence[str]) -> None:
    for column in table:
        if column.name not in special:
            _refuse_type(key, column)


def _refuse_type(key: str, column: "polars.Series") -> None:
    import polars

    if not (column.dtype.is_numeric() or column.dtype == polars.Boolean):
        raise BadDataset(_no_feature(key, column.name, str(column.dtype)))


def _no_feature(key: str, name: str, kind: str) -> str:
    return (
        f"{key} has the column {name!r} of type {kind}: features must be numbers. Leave it out, or write numbers for "
        "its values"
    )


def _numbers(key: str, column: "polars.Series") -> Array:
    import polars

    _refuse_type(key, column)
    if missing := column.null_count():
        raise BadDataset(f"{key} has {missing} missing values in {column.name!r}: drop or replace them first")
    numbers: Array = column.cast(polars.Float64).to_numpy()
    if column.dtype.is_integer() or column.dtype.is_decimal():
        # By what they have become: Polars compares a column with no number beyond its own type.
        far = column.filter(polars.Series(np.abs(numbers.astype(np.float64)) >= 2**53)).to_list()
        _refuse_inexact(key, column.name, [int(number) for number in far])
    return numbers


def _refuse_inexact(key: str, name: str, numbers: Sequence[int]) -> None:
    if any(int(float(number)) != number for number in numbers):
        raise BadDataset(
            f"{key} has whole numbers above 2**53 in {name!r} that no 64-bit float can tell apart: subtract an offset, "
            "or leave out ids"
        )


def _words(key: str, column: "polars.Series", max_bytes: int) -> Array:
    """Labels or groups: whole numbers or strings, as the data set checks."""
    import polars

    if missing := column.null_count():
        raise BadDataset(f"{key} has {missing} missing values in {column.name!r}: drop or replace these rows first")
    if column.dtype not in (polars.String, polars.Categorical, polars.Enum):
        if not (column.dtype.is_integer() or column.dtype == polars.Boolean):
            raise BadDataset(
                f"{key} has the column {column.name!r} of type {column.dtype}: write whole numbers or strings"
            )
        values: Array = column.to_numpy()
        return values
    words = column.unique().cast(polars.String)
    if words.str.contains("\0", literal=True).any():  # NumPy drops it from a word's end
        raise BadDataset(f"{key} has a NUL character in {column.name!r}: replace it")
    longest = words.str.len_chars().max()
    size = 4 * len(column) * (longest if isinstance(longest, int) else 0)
    if size > max_bytes:  # as NumPy keeps them: each as long as the longest
        raise BadDataset(
            f"{key} needs {size:,} bytes for the words in {column.name!r}, as the longest one decides: shorten them, "
            "or raise INFERENCE_DATASET_MAX_MIB"
        )
    return column.cast(polars.String).to_numpy().astype(np.str_)
