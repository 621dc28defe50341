"""Parquet, batch by batch."""

import json
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date, time
from decimal import Decimal
from itertools import chain
from pathlib import Path

import polars as pl
import pyarrow as pa  # type: ignore[import-untyped]  # ships no types
import pyarrow.compute as pc  # type: ignore[import-untyped]  # ships no types
import pyarrow.parquet as pq  # type: ignore[import-untyped]  # ships no types

from etl_service.errors import ColumnUnreadable, SourceUnreadable
from etl_service.sources.batch import BATCH_BYTES, BATCH_ROWS, CELL_BYTES, Batch
from etl_service.sources.json_values import written_out
from etl_service.sources.names import clean, positions_of
from etl_service.sources.writing import AS_USUAL, Writing
from jobkit.contracts.etl import Column

#: Types whose cells are read with the job's decimal and thousands marks.
_NUMBERS = frozenset({"integer", "number", "decimal"})

#: Encodings of column chunks (https://parquet.apache.org/docs/file-format/data-pages/encodings/).
_DICTIONARIES = frozenset({"PLAIN_DICTIONARY", "RLE_DICTIONARY"})
_PLAIN = frozenset({"PLAIN", "RLE", "BIT_PACKED"})

#: Bytes of one row. Nobody would want more, and they are needed at once.
_LONGEST_ROW = 4 * BATCH_BYTES

_UUID_BYTES = 16


def read_parquet(path: Path, columns: Sequence[Column], writing: Writing = AS_USUAL) -> Iterator[Batch]:
    """Read a local file; its cells become text, so that one set of rules types the cells of every format."""
    with opened_parquet(path, memory_map=True) as file:
        names = list(file.schema_arrow.names)
        positions = positions_of([clean(name) for name in names], columns)
        wanted = sorted({names[position] for position in positions if position is not None})
        at_once = _rows_at_once(file, len(columns))
        dictionaries = _dictionaries(file, wanted)
    # Times of 96 bits as microseconds: as nanoseconds they wrap around outside of the years 1677 to 2262.
    # Texts as dictionaries, as they are in the file: a long one in many rows takes its room once.
    with opened_parquet(
        path, coerce_int96_timestamp_unit="us", read_dictionary=dictionaries, page_checksum_verification=True
    ) as file:
        found = [None if position is None else names[position] for position in positions]
        decoded = file.iter_batches(at_once, columns=wanted)
        yield from _batches(decoded, _rows_of(file), found, columns, writing)


@contextmanager
def opened_parquet(path: Path, **options: object) -> Iterator[pq.ParquetFile]:
    """Open a local file with the ``options`` of ``pyarrow.parquet.ParquetFile``.

    Raises:
        SourceUnreadable: it is not Parquet, damaged or encrypted, here or where it is read.
    """
    try:
        with pq.ParquetFile(path, **options) as file:
            yield file
    except UnicodeDecodeError as error:
        raise SourceUnreadable(f"the source is damaged: the name of a column is not UTF-8 ({error.reason})") from error
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the local disk's fault, not the file's
        reason = reason_of(error)
        if "crypt" in reason:
            raise SourceUnreadable(f"the source is encrypted, as a whole or in a declared column: {reason}") from error
        raise SourceUnreadable(f"the source is not readable as Parquet, or is cut off: {reason}") from error


def _dictionaries(file: pq.ParquetFile, wanted: Sequence[str]) -> list[str]:
    """The columns of texts or bytes that are dictionaries in the file, wholly or until these became too large."""
    schema, encodings = file.schema, dict[str, set[str]]()
    leaves = {
        number: schema.column(number).path
        for number in range(len(schema))
        if schema.column(number).physical_type == "BYTE_ARRAY" and _is_within(schema.column(number).path, wanted)
    }
    if not leaves:
        return []
    for group in range(file.num_row_groups):
        # Arrow ends the process when it is asked about a chunk that is encrypted. To read it raises an error.
        next(file.iter_batches(1, row_groups=[group], columns=list(leaves.values())), None)
        for number, leaf in leaves.items():
            encodings.setdefault(leaf, set()).update(file.metadata.row_group(group).column(number).encodings)
    # Arrow reads no other encoding into a dictionary.
    return [path for path, found in encodings.items() if found & _DICTIONARIES and found <= _DICTIONARIES | _PLAIN]


def _is_within(leaf: str, wanted: Sequence[str]) -> bool:
    return any(leaf == name or leaf.startswith(f"{name}.") for name in wanted)


def _batches(
    decoded: Iterable[pa.RecordBatch],
    total: int,
    names: Sequence[str | None],
    columns: Sequence[Column],
    writing: Writing,
) -> Iterator[Batch]:
    number = 0
    for part in chain.from_iterable(map(_bounded, decoded)):
        count = part.num_rows
        cells = [
            pl.Series(column.name, [None] * count, dtype=pl.String)
            if name is None
            else _text(_column(part, name, column), column, writing)
            for column, name in zip(columns, names, strict=True)
        ]
        numbers = list(range(number + 1, number + count + 1))
        number += count
        yield Batch(columns, numbers, pl.DataFrame(cells).rows(), done=number / max(1, total))
    if number != total:
        raise SourceUnreadable(f"the source is damaged: it says that it has {total} rows, and {number} are there")
    if number == 0:
        yield Batch(columns, done=1.0)


def _column(part: pa.RecordBatch, name: str, column: Column) -> pa.Array:
    if name not in part.schema.names:
        raise ColumnUnreadable(column.source, "holds no values: it is a group without fields")
    return part.column(name)


def _rows_of(file: pq.ParquetFile) -> int:
    """How many rows the row groups have. Some writers leave the number for the whole file at 0."""
    return sum(file.metadata.row_group(group).num_rows for group in range(file.num_row_groups))


def _rows_at_once(file: pq.ParquetFile, columns: int) -> int:
    """How many rows are decoded at once, by what the file says of their size."""
    rows = max(1, _rows_of(file))
    size = sum(file.metadata.row_group(group).total_byte_size for group in range(file.num_row_groups))
    if size // rows > _LONGEST_ROW:
        raise SourceUnreadable(f"the source has rows of {size // rows:,} bytes, and {_LONGEST_ROW:,} are the most")
    return int(max(1, min(BATCH_ROWS, BATCH_BYTES // (size // rows + CELL_BYTES * (columns + 1)))))


def _bounded(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Cut a batch into parts that fit into ``BATCH_BYTES`` when their dictionaries are resolved."""
    rows = batch.num_rows
    if rows <= 1 or sum(map(_resolved, batch.columns)) <= BATCH_BYTES:
        yield batch
        return
    yield from _bounded(batch.slice(0, rows // 2))
    yield from _bounded(batch.slice(rows // 2))


def _resolved(cells: pa.Array) -> int:
    """Bytes of a column when its dictionary is resolved."""
    if not pa.types.is_dictionary(cells.type):
        return int(cells.nbytes)
    if not (_is_text(cells.type.value_type) or _is_bytes(cells.type.value_type)):
        return 0  # of a fixed size, which the rows bound
    lengths = pc.binary_length(cells.dictionary)
    return int(pc.sum(lengths.take(cells.indices)).as_py() or 0)


def _text(cells: pa.Array, column: Column, writing: Writing) -> pl.Series:
    try:
        cells.validate(full=True)
        texts = _as_text(cells, column)
    except (pa.ArrowException, pl.exceptions.PolarsError, ValueError, OverflowError) as error:
        reason = reason_of(error)
        if "UTF8" in reason or isinstance(error, UnicodeDecodeError):
            raise ColumnUnreadable(column.source, "holds bytes that are not UTF-8 text") from error
        raise ColumnUnreadable(column.source, f"cannot be read: {reason}") from error
    except pl.exceptions.PanicException as error:
        raise ColumnUnreadable(column.source, f"holds {cells.type}, which cannot be read") from error
    if writing.decimal_mark != "." and column.type in _NUMBERS and not _is_text(_decoded(cells.type)):
        texts = texts.str.replace(".", writing.decimal_mark, literal=True)
    return texts.alias(column.name)


def _as_text(cells: pa.Array, column: Column) -> pl.Series:
    kind = cells.type
    if isinstance(kind, pa.BaseExtensionType):
        return _as_text_of_extension(cells, column)
    if pa.types.is_dictionary(kind):
        cells.dictionary.validate(full=True)
        return _as_text(cells.dictionary_decode(), column)
    if pa.types.is_timestamp(kind):
        return _times(cells)
    if pa.types.is_decimal(kind):
        return _each(cells, lambda value: format(value, "f"))
    if pa.types.is_fixed_size_binary(kind) and column.type == "uuid" and kind.byte_width == _UUID_BYTES:
        return _each(cells, lambda value: str(uuid.UUID(bytes=value)))
    if _is_bytes(kind):
        return _series(
            cells.cast(pa.large_string())
        )  # what writers without a type for texts leave; refuses other bytes
    if _has_one_text(kind) or (pa.types.is_time(kind) and column.type == "text"):
        return _series(cells.cast(pa.large_string()))
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return _number(cells, column)
    if column.type == "json" and pa.types.is_nested(kind):
        return _as_json(cells, column)
    raise ColumnUnreadable(column.source, f"holds {kind}, which cannot become {column.type}")


def _as_json(cells: pa.Array, column: Column) -> pl.Series:
    if _is_variant(cells.type):
        raise ColumnUnreadable(column.source, "holds values of Parquet's type VARIANT, which cannot be read")
    return _each(cells, lambda value: json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain))


def _number(cells: pa.Array, column: Column) -> pl.Series:
    if column.type == "integer" and pa.types.is_floating(cells.type):  # Polars writes 1e16 with its exponent
        return _each(cells, lambda value: written_out(repr(value)).replace("nan", "NaN"))  # as Polars writes it
    return _series(cells).cast(pl.String)


def _as_text_of_extension(cells: pa.Array, column: Column) -> pl.Series:
    if cells.type.extension_name == "arrow.uuid":
        return _each(cells.storage, lambda value: str(uuid.UUID(bytes=value)))
    return _as_text(cells.storage, column)


def _decoded(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _times(cells: pa.Array) -> pl.Series:
    kind = cells.type
    # With a zone the values are in UTC, whatever the zone's name is.
    local = _series(cells.cast(pa.timestamp(kind.unit, "UTC")).cast(pa.timestamp(kind.unit)) if kind.tz else cells)
    return local.dt.strftime("%Y-%m-%dT%H:%M:%S%.6f" + ("Z" if kind.tz else ""))


def _is_variant(kind: pa.DataType) -> bool:
    """Whether the fields are those of a VARIANT (https://parquet.apache.org/docs/file-format/types/variantencoding/)."""
    names = {kind.field(number).name for number in range(kind.num_fields)} if pa.types.is_struct(kind) else set()
    binary = "metadata" in names and names <= {"metadata", "value", "typed_value"}
    return binary and _is_bytes(_decoded(kind.field("metadata").type))


def _has_one_text(kind: pa.DataType) -> bool:
    return bool(_is_text(kind) or pa.types.is_null(kind) or pa.types.is_boolean(kind) or pa.types.is_date(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _plain(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, date | time | Decimal | uuid.UUID):
        return str(value)
    raise ValueError(f"a {type(value).__name__} has no form in JSON")


def _each(cells: pa.Array, text: Callable[..., str]) -> pl.Series:
    return pl.Series([None if value is None else text(value) for value in cells.to_pylist()], dtype=pl.String)


def _series(cells: pa.Array) -> pl.Series:
    series = pl.from_arrow(cells)
    assert isinstance(series, pl.Series)  # noqa: S101  what Polars makes of an array
    return series


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def reason_of(error: BaseException) -> str:
    """The first line of what Arrow or Polars says."""
    return (str(error).splitlines() or ["no reason given"])[0][:300]
