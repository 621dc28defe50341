"""Text cells become typed cells, strictly: what does not read as its type is a reject with the reason."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Context, Decimal

import polars as pl
import pyarrow as pa  # type: ignore[import-untyped]  # ships no types

from etl_service.adapters.rounded import ROUNDED
from etl_service.moments import dates, timestamps
from etl_service.sources.batch import Reject
from etl_service.sources.json_values import parse
from etl_service.sources.writing import AS_USUAL, Writing
from jobkit.contracts.etl import Column, ColumnType

#: What rows travel as between transform and load; decimals by their precision and scale.
ARROW_TYPES: Mapping[ColumnType, pa.DataType] = {
    "text": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", tz="UTC"),
    "uuid": pa.string(),
    "json": pa.string(),
}

_NOT_A: Mapping[ColumnType, str] = {
    "text": "holds a NUL character",
    "integer": "is not a whole number of 64 bits",
    "number": "is not a finite decimal number",
    "decimal": "is not a decimal number",
    "boolean": "is not true or false",
    "date": "is not a date like 2026-10-01",
    "timestamp": "is not a time like 2026-10-01T08:30:00Z",
    "uuid": "is not a UUID",
    "json": "is not one JSON value, or holds a NUL character",
}

_BOOLEANS = {
    **dict.fromkeys(("true", "t", "yes", "y", "1"), True),
    **dict.fromkeys(("false", "f", "no", "n", "0"), False),
}

# [0-9] and not \d, which matches the digits of every script.
_INTEGER = r"^([+-]?[0-9]+)(?:\.0*)?$"
_NUMBER = r"^[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?$"
_UUID = r"^\{?([0-9a-f]{8})-?([0-9a-f]{4})-?([0-9a-f]{4})-?([0-9a-f]{4})-?([0-9a-f]{12})\}?$"

#: Behind an even number of backslashes, which stand for themselves.
_ESCAPED_NUL = re.compile(r"(?<!\\)(?:\\\\)*+\\u0000")

#: A decimal of so many digits is kept by a double, and comes back from it as it was.
_DIGITS_OF_A_DOUBLE = 15

#: Characters of a decimal number. More would take long to read, and none of 38 digits needs them.
_LONGEST_DECIMAL = 200

#: Of more digits than that text can have, so that nothing is rounded.
_EXACT = Context(prec=2 * _LONGEST_DECIMAL)

#: What a space as thousands mark stands for: space, no-break space, thin space, narrow no-break space.
_SPACES = " \u00a0\u2009\u202f"


def schema(columns: Sequence[Column]) -> pa.Schema:
    """The typed rows: ``_row``, the row's number in the source from 1, then the columns in the job's order."""
    return pa.schema([("_row", pa.int64()), *((column.name, _arrow_type(column)) for column in columns)])


def _arrow_type(column: Column) -> pa.DataType:
    return pa.decimal128(column.precision, column.scale or 0) if column.type == "decimal" else ARROW_TYPES[column.type]


def cast(
    cells: pl.DataFrame, columns: Sequence[Column], key: Sequence[str] = (), writing: Writing = AS_USUAL
) -> tuple[pa.Table, list[Reject]]:
    """Split text cells (with ``_row``) into typed rows of ``schema(columns)`` and rejects.

    Cells are trimmed and set in the case that the column asks for. One that is empty, or is spelt like a missing value,
    is missing. A missing cell rejects its row if the column is required or part of the ``key``. Every bad cell of a row
    is named. The metadata of the typed rows has ``ROUNDED``.
    """
    cleaned = cells.select("_row", *(_cleaned(column, writing) for column in columns))
    typed = cleaned.select("_row", *(_typed(column, writing).alias(column.name) for column in columns))
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
    rows = typed.filter(good)
    rounded = _rounded(cleaned.filter(good), rows, columns, writing)
    table = rows.to_arrow().cast(schema(columns))
    return table.replace_schema_metadata({ROUNDED: json.dumps(rounded).encode()} if rounded else None), rejects


def _rounded(cleaned: pl.DataFrame, rows: pl.DataFrame, columns: Sequence[Column], writing: Writing) -> dict[str, int]:
    """The first row of each column of doubles whose text is another number than the double."""
    found = {}
    for column in columns:
        if column.type != "number":
            continue
        texts = cleaned.select(_plain_number(pl.col(column.name), writing))[column.name]
        digits = texts.str.replace("[eE].*$", "").str.replace_all("[^0-9]", "").str.strip_chars_start("0")
        # Most are the shortest text of their double, as programs write it.
        long = (digits.str.len_chars() > _DIGITS_OF_A_DOUBLE) & (texts != rows[column.name].cast(pl.String))
        for row, text, number in zip(
            *(of.filter(long) for of in (rows["_row"], texts, rows[column.name])), strict=True
        ):
            if Decimal(text) != Decimal(repr(number)):
                found[column.name] = row
                break
    return found


def _cleaned(column: Column, writing: Writing) -> pl.Expr:
    text = pl.col(column.name)
    if column.trim or column.type != "text":
        text = text.str.strip_chars()
    there = text != ""
    if writing.missing:
        there &= ~text.is_in(writing.missing)
    if column.case != "keep":
        text = text.str.to_lowercase() if column.case == "lower" else text.str.to_uppercase()
    return pl.when(there).then(text).alias(column.name)


def _reason(column: Column, text: pl.Series, *, required: bool) -> pl.Expr:
    typed = pl.col(column.name)
    shown = pl.lit(text.str.slice(0, 100))
    bad = pl.when(typed.is_null() & pl.lit(text.is_not_null())).then(pl.format(f"'{{}}' {_complaint(column)}", shown))
    missing = pl.when(pl.lit(text.is_null()) & pl.lit(required)).then(pl.lit("is missing"))
    return pl.coalesce(bad, missing).alias(column.name)


def _complaint(column: Column) -> str:
    if column.type == "decimal":
        return f"is not a decimal({column.precision}, {column.scale or 0})"
    complaint = _NOT_A[column.type]
    if column.format is not None:
        complaint = f"{complaint.partition(' like ')[0]} like {column.format}"
    if column.timezone is not None:
        complaint += f", or not exactly one in {column.timezone}"
    return complaint.replace("{", "{{").replace("}", "}}")


def _typed(column: Column, writing: Writing) -> pl.Expr:
    text = pl.col(column.name)
    match column.type:
        case "text":
            return pl.when(~text.str.contains("\0", literal=True)).then(text)
        case "integer":
            return _plain_number(text, writing).str.extract(_INTEGER).cast(pl.Int64, strict=False)
        case "number":
            plain = _plain_number(text, writing)
            number = pl.when(plain.str.contains(_NUMBER)).then(plain).cast(pl.Float64, strict=False)
            return pl.when(number.is_finite()).then(number)
        case "decimal":
            return _decimal(_plain_number(text, writing), column.precision or 0, column.scale or 0)
        case "boolean":
            return text.str.to_lowercase().replace_strict(_BOOLEANS, default=None, return_dtype=pl.Boolean)
        case "date":
            return dates(text, column.format)
        case "timestamp":
            return timestamps(text, column.format, column.timezone)
        case "uuid":
            return _uuid(text.str.to_lowercase())
        case "json":
            return _each(text, _json, pl.String)


def _plain_number(text: pl.Expr, writing: Writing) -> pl.Expr:
    """The number with a point and without thousands marks; null if the marks are not where they belong."""
    point, thousands = writing.decimal_mark, writing.thousands_mark
    if (point, thousands) == (".", ""):
        return text
    group = f"[{_SPACES}]" if thousands == " " else "['\u2019]" if thousands == "'" else re.escape(thousands)
    whole = rf"(?:[0-9]+|[0-9]{{1,3}}(?:{group}[0-9]{{2,3}})*{group}[0-9]{{3}})" if thousands else "[0-9]+"
    fraction = f"{re.escape(point)}[0-9]*"
    pattern = rf"^[+-]?(?:{whole}(?:{fraction})?|{re.escape(point)}[0-9]+)(?:[eE][+-]?[0-9]+)?$"
    plain = text.str.replace_all(group, "") if thousands else text
    return pl.when(text.str.contains(pattern)).then(plain.str.replace(point, ".", literal=True))


def _decimal(text: pl.Expr, precision: int, scale: int) -> pl.Expr:
    number = pl.when(text.str.contains(_NUMBER) & (text.str.len_chars() <= _LONGEST_DECIMAL)).then(text)
    limit, unit = 10 ** (precision - scale), Decimal(1).scaleb(-scale)

    def exact(cell: str) -> Decimal | None:
        value = Decimal(cell)
        if not value:
            return Decimal(0)
        if value.adjusted() < -scale or value.adjusted() > precision:  # before numbers of that size are made
            return None
        return value if value.copy_abs() < limit and not _EXACT.remainder(value, unit) else None

    return _each(number, exact, pl.Decimal(precision, scale))


def _uuid(text: pl.Expr) -> pl.Expr:
    parts = text.str.extract_groups(_UUID).struct
    return pl.format("{}-{}-{}-{}-{}", *(parts.field(str(number)) for number in range(1, 6)))


def _json(text: str) -> str | None:
    try:
        parse(text)
    except ValueError:
        return None
    return None if "\0" in text or _ESCAPED_NUL.search(text) else text  # PostgreSQL cannot keep it


def _each(text: pl.Expr, read: Callable[[str], object], kind: pl.DataType | type[pl.DataType]) -> pl.Expr:
    def read_all(cells: pl.Series) -> pl.Series:
        return pl.Series(cells.name, [None if cell is None else read(cell) for cell in cells.to_list()], dtype=kind)

    return text.map_batches(read_all, return_dtype=kind)
