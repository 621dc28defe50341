"""PostgreSQL's types: which of them a load makes, and when a value would become another in one of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from jobkit.contracts.etl import Column, ColumnType

TYPES: Mapping[ColumnType, str] = {
    "text": "text",
    "integer": "bigint",
    "number": "double precision",
    "decimal": "numeric",
    "boolean": "boolean",
    "date": "date",
    "timestamp": "timestamp with time zone",
    "uuid": "uuid",
    "json": "jsonb",
}

#: Types that travel as texts.
AS_TEXT = frozenset({"text", "uuid", "json"})

#: Categories of types (https://www.postgresql.org/docs/current/catalog-pg-type.html) that read a text exactly or refuse
#: it: numbers, booleans, enums, networks, geometries, and those of their own (uuid, json, jsonb, xml, vector).
_READS_TEXT = frozenset("NBEIGU")

#: Of these categories, types that read a text in their own way: by locale, or with escapes.
_READS_OTHERWISE = frozenset({"money", "bytea", "oid"})

_INTEGERS = frozenset({"int2", "int4", "int8"})
FLOATS = frozenset({"float4", "float8"})
_CUT_IN_SILENCE = frozenset({"name", "char"})
_TIMES_OF_DAY = frozenset({"time", "timetz"})

#: What PostgreSQL adds to the length of a varchar in its modifier.
_VARYING_HEADER = 4


@dataclass(frozen=True)
class Target:
    """A column of the table: its type, that of its domain if it has one, and the collation if not the type's own."""

    type: str
    name: str
    category: str
    modifier: int
    collation: str | None
    relation: str  # "r" for a table, "p" for a partitioned one, "v" for a view

    def __str__(self) -> str:
        return self.type

    @property
    def reads_text(self) -> bool:
        """Whether a text becomes a value of this type only if both mean the same."""
        return self.category in _READS_TEXT and self.name not in _READS_OTHERWISE and not self.name.startswith("reg")


def changed(column: Column, target: Target) -> str:
    """Return the SQL condition under which a staged cell becomes another value in the target; empty if none does."""
    condition = _CHANGED.get(column.type)
    cell = f'"{column.name}"'
    return condition(cell, f"CAST({cell} AS {target.type})", target) if condition else ""


def _text_changed(cell: str, there: str, target: Target) -> str:
    if target.name == "numeric" or target.name in FLOATS:
        return f"{_digits(there)} <> CAST({cell} AS numeric)"
    if target.name == "varchar" and target.modifier >= _VARYING_HEADER:  # blanks beyond the length are cut in silence
        length = target.modifier - _VARYING_HEADER
        return f"char_length({cell}) > {length} AND char_length(rtrim({cell}, ' ')) <= {length}"
    return f"CAST({there} AS text) <> {cell}" if target.name in _CUT_IN_SILENCE else ""


def _double_changed(cell: str, there: str, target: Target) -> str:
    if target.name in _INTEGERS:
        return f"{there} <> {cell}"
    if target.name == "numeric":
        return f"CAST(CAST({cell} AS text) AS {target.type}) <> {_digits(cell)}"
    return f"CAST(CAST({there} AS text) AS double precision) <> {cell}" if target.name == "float4" else ""


def _integer_changed(cell: str, there: str, target: Target) -> str:
    if target.name in FLOATS:
        return f"{_digits(there)} <> {cell}"
    return f"{there} <> {cell}" if target.name == "numeric" else ""


def _decimal_changed(cell: str, there: str, target: Target) -> str:
    if target.name in _INTEGERS or target.name == "money":
        return f"CAST({there} AS numeric) <> {cell}"
    return _integer_changed(cell, there, target)


def _timestamp_changed(cell: str, there: str, target: Target) -> str:
    if target.name in _TIMES_OF_DAY:
        return f"{cell} IS NOT NULL"
    if target.name in {"date", "timestamp", "timestamptz"}:
        return f"CAST({there} AS timestamp with time zone) <> {cell}"
    return ""


def _digits(value: str) -> str:
    """A double or a number as the decimal number that is its shortest text."""
    return f"CAST(CAST({value} AS text) AS numeric)"


_CHANGED: Final[Mapping[ColumnType, Callable[[str, str, Target], str]]] = {
    "text": _text_changed,
    "json": _text_changed,
    "integer": _integer_changed,
    "number": _double_changed,
    "decimal": _decimal_changed,
    "timestamp": _timestamp_changed,
}
