"""Text cells become typed cells, strictly: what does not read as its type is a reject with the reason."""

from collections.abc import Mapping, Sequence

import polars as pl
import pyarrow as pa  # type: ignore[import-untyped]  # ships no types

from etl_service.sources.batch import Reject
from jobkit.contracts.etl import Column, ColumnType

#: What rows travel as between transform and load.
ARROW_TYPES: Mapping[ColumnType, pa.DataType] = {
    "text": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", tz="UTC"),
}

_NOT_A: Mapping[ColumnType, str] = {
    "text": "holds a NUL character",
    "integer": "is not a whole number of 64 bits",
    "number": "is not a finite decimal number",
    "boolean": "is not true or false",
    "date": "is not a date like 2026-10-01",
    "timestamp": "is not a time like 2026-10-01T08:30:00Z",
}

_BOOLEANS = {
    **dict.fromkeys(("true", "t", "yes", "y", "1"), True),
    **dict.fromkeys(("false", "f", "no", "n", "0"), False),
}

# [0-9] and not \d, which matches the digits of every script.
_INTEGER = r"^([+-]?[0-9]+)(?:\.0*)?$"
_NUMBER = r"^[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?$"
_DATE = r"^([0-9]{4}-[0-9]{2}-[0-9]{2})(?:[T ]00:00(?::00(?:\.0+)?)?Z?)?$"
_TIMESTAMP = (
    r"^(?<day>[0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[T ](?<minute>[0-9]{2}:[0-9]{2})(?::(?<second>[0-5][0-9](?:\.[0-9]{1,9})?))?"
    r" ?(?:[Zz]|(?<sign>[+-])(?<hours>[01][0-9]|2[0-3])(?::?(?<minutes>[0-5][0-9]))?)?)?$"
)


def schema(columns: Sequence[Column]) -> pa.Schema:
    """The typed rows: ``_row``, the row's number in the source from 1, then the columns in the job's order."""
    return pa.schema([("_row", pa.int64()), *((column.name, ARROW_TYPES[column.type]) for column in columns)])


def cast(cells: pl.DataFrame, columns: Sequence[Column], key: Sequence[str] = ()) -> tuple[pa.Table, list[Reject]]:
    """Split text cells (with ``_row``) into typed rows of ``schema(columns)`` and rejects.

    Cells are trimmed and set in the case that the column asks for, and an empty one is missing. A missing cell
    rejects its row if the column is required or part of the ``key``. Every bad cell of a row is named.
    """
    cleaned = cells.select("_row", *(_cleaned(column) for column in columns))
    typed = cleaned.select("_row", *(_typed(column).alias(column.name) for column in columns))
    reasons = typed.select(
        _reason(column, cleaned[column.name], required=column.required or column.name in key) for column in columns
    )
    good = reasons.select(ok=pl.all_horizontal(pl.all().is_null()))["ok"]
    bad = reasons.with_columns(cells["_row"]).filter(~good)
    rejects = [
        Reject(
            row.pop("_row"),
            {name: reason for name, reason in row.items() if reason is not None},
            {column.source: record[column.name] for column in columns},
        )
        for row, record in zip(bad.iter_rows(named=True), cells.filter(~good).iter_rows(named=True), strict=True)
    ]
    return typed.filter(good).to_arrow().cast(schema(columns)), rejects


def _cleaned(column: Column) -> pl.Expr:
    text = pl.col(column.name)
    if column.trim or column.type != "text":
        text = text.str.strip_chars()
    if column.case != "keep":
        text = text.str.to_lowercase() if column.case == "lower" else text.str.to_uppercase()
    return pl.when(text != "").then(text).alias(column.name)


def _reason(column: Column, text: pl.Series, *, required: bool) -> pl.Expr:
    typed = pl.col(column.name)
    shown = pl.lit(text.str.slice(0, 100))
    bad = pl.when(typed.is_null() & pl.lit(text.is_not_null())).then(pl.format(f"'{{}}' {_NOT_A[column.type]}", shown))
    missing = pl.when(pl.lit(text.is_null()) & pl.lit(required)).then(pl.lit("is missing"))
    return pl.coalesce(bad, missing).alias(column.name)


def _typed(column: Column) -> pl.Expr:
    text = pl.col(column.name)
    match column.type:
        case "text":
            return pl.when(~text.str.contains("\0", literal=True)).then(text)
        case "integer":
            return text.str.extract(_INTEGER).cast(pl.Int64, strict=False)
        case "number":
            number = pl.when(text.str.contains(_NUMBER)).then(text).cast(pl.Float64, strict=False)
            return pl.when(number.is_finite()).then(number)
        case "boolean":
            return text.str.to_lowercase().replace_strict(_BOOLEANS, default=None, return_dtype=pl.Boolean)
        case "date":
            day = text.str.extract(_DATE).str.to_date("%Y-%m-%d", strict=False)
            return pl.when(day.dt.year() >= 1).then(day)
        case "timestamp":
            return _timestamp(text)


def _timestamp(text: pl.Expr) -> pl.Expr:
    part = text.str.extract_groups(_TIMESTAMP).struct
    minute, second = part.field("minute").fill_null("00:00"), part.field("second").fill_null("00")
    local = pl.format("{}T{}:{}", part.field("day"), minute, second)
    moment = local.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", time_unit="us", strict=False)
    hours, minutes = (
        part.field("hours").fill_null("0").cast(pl.Int64),
        part.field("minutes").fill_null("0").cast(pl.Int64),
    )
    offset = pl.duration(hours=hours, minutes=minutes)
    utc = pl.when(part.field("sign") == "-").then(moment + offset).otherwise(moment - offset)
    return pl.when(utc.dt.year().is_between(1, 9999)).then(utc).dt.replace_time_zone("UTC")
