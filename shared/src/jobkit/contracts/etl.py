"""Jobs of the etl service: a table is read, checked and loaded in three jobs, each of which sends the next."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from jobkit.contracts.job import Job

#: Bytes of a name. PostgreSQL cuts longer ones silently.
_LONGEST_NAME = 63

#: No quote and no control character; the service's own names begin with a space, which these cannot.
_NAME = re.compile(r"[^\W\d](?:[\w$ -]*[\w$-])?")

Format = Literal["csv", "jsonl", "parquet"]
ColumnType = Literal["text", "integer", "number", "decimal", "boolean", "date", "timestamp", "uuid", "json"]
Mode = Literal["append", "replace"]

#: The service keeps its marks of finished loads there, in the same database.
INBOX_TABLE = "jobkit_inbox"

#: Columns of one job.
MOST_COLUMNS = 500

#: Characters of a column's name in the source. Exports of surveys have whole questions there.
LONGEST_SOURCE_NAME = 1000

#: ``%`` directives of a column's ``format``, as in Python's ``strptime``.
DIRECTIVES = frozenset("YymbBdHIMSfpz%")

_DECIMAL = re.compile(r"decimal\(\s*(\d{1,3})\s*(?:,\s*(\d{1,3})\s*)?\)")

#: Codecs of Python that are not the encoding of any file.
_NOT_AN_ENCODING = frozenset({"undefined", "idna", "punycode", "unicode_escape", "raw_unicode_escape", "mbcs", "oem"})


def _identifier(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(
            "must start with a letter or underscore, and hold letters, digits, underscores, '$', hyphens and inner "
            "spaces only"
        )
    if value == "_row":
        raise ValueError("is the service's own name for the number of a row")
    if len(value.encode()) > _LONGEST_NAME:
        raise ValueError(f"has more than {_LONGEST_NAME} bytes")
    return value


def _encoding(value: str) -> str:
    try:
        "".encode(value)
        b"".decode(value)
    except (LookupError, ValueError):
        raise ValueError(f"{value!r} is not the encoding of a text, such as 'utf-8' or 'windows-1252'") from None
    if value.lower().replace("-", "_") in _NOT_AN_ENCODING:
        raise ValueError(f"{value!r} is not the encoding of a file")
    return value


def _share(value: float) -> float:
    if not isinstance(value, int) and value > 1:
        raise ValueError("is a share from 0.0 to 1.0, or a whole number of rows")
    return value


def _source(value: str) -> str:
    if not value.isprintable() or "\\" in value:
        raise ValueError("must not hold control characters or backslashes")
    scheme = urlsplit(value).scheme.lower()
    if scheme in {"http", "https"}:
        url = urlsplit(value)
        if not url.hostname:
            raise ValueError("names no host: write https://host/path")
        if url.username or url.password:
            raise ValueError("must not carry a user or password, as messages are no place for secrets")
        return value
    if "://" in value:
        raise ValueError(f"has the scheme {scheme!r}: a source is a key in storage or an http(s) URL")
    if value.startswith("/") or any(part in {"", ".", ".."} for part in value.split("/")):
        raise ValueError("must be a key like 'incoming/orders.csv', without '..' and without a slash at either end")
    return value


def _table(value: str) -> str:
    if value.lower() == INBOX_TABLE or value.lower().startswith(("sqlite_", "pg_")):
        raise ValueError(f"{value!r} belongs to the database or to the service: choose another table")
    return value


Identifier = Annotated[str, StringConstraints(min_length=1), AfterValidator(_identifier)]
Key = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
Source = Annotated[str, StringConstraints(min_length=1, max_length=2048), AfterValidator(_source)]
Table = Annotated[Identifier, AfterValidator(_table)]
RunId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$")]


class Column(BaseModel):
    """One column of the table, and how its cells are read.

    An empty cell is a missing value. Other cells must read as the type, strictly:

    - ``text``: anything but the NUL character, which PostgreSQL cannot keep.
    - ``integer``: a whole number of 64 bits, as ``12``, ``-3`` or ``12.0``.
    - ``number``: a finite decimal number with a point, as ``1.5`` or ``2e-3``, kept as a double of 64 bits.
    - ``decimal(p, s)``: a decimal number of at most ``p`` digits (38), ``s`` of them after the point, kept exactly.
    - ``boolean``: true/false, t/f, yes/no, y/n, 1/0 in any case.
    - ``date``: ISO 8601, ``2026-10-01``; a time of midnight is accepted.
    - ``timestamp``: ISO 8601, ``2026-10-01T08:30:00+02:00``; kept in UTC with microseconds. ``Z``, ``UTC`` and ``GMT``
      are offsets too.
    - ``uuid``: 32 hexadecimal digits, with or without hyphens.
    - ``json``: one JSON value.

    Attributes:
        name: The column in the table. PostgreSQL tells upper from lower case, SQLite does not.
        type: As above. ``"decimal(12, 2)"`` is short for ``type="decimal", precision=12, scale=2``.
        source_name: Its name in the source, if another.
        required: Whether a missing cell rejects its row.
        may_be_absent: Whether the source as a whole may lack the column. Its cells are then missing.
        trim: Whether blanks at both ends of a text are dropped.
        case: Of a text.
        precision: Digits of a decimal, 1 to 38.
        scale: Digits after the point of a decimal; 0 if not given.
        format: How dates and timestamps are written, if not as in ISO 8601: ``%d.%m.%Y %H:%M``. It may hold ``%Y %y %m
            %b %B %d %H %I %p %M %S %f %z %%``, with English names of months. Of the two-digit years, 69 to 99 are of
            the 1900s.
        timezone: The zone of timestamps that name no offset, such as ``Europe/Berlin``; UTC if not given. A time that
            the zone has twice, or skips, rejects its row.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Identifier
    type: ColumnType
    source_name: Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_SOURCE_NAME)] | None = None
    required: bool = False
    may_be_absent: bool = False
    trim: bool = True
    case: Literal["keep", "lower", "upper"] = "keep"
    precision: Annotated[int, Field(ge=1, le=38)] | None = None
    scale: Annotated[int, Field(ge=0, le=38)] | None = None
    format: Annotated[str, StringConstraints(min_length=2, max_length=100)] | None = None
    timezone: Annotated[str, StringConstraints(min_length=1, max_length=100)] | None = None

    @property
    def source(self) -> str:
        """The column's name in the source."""
        return self.source_name or self.name

    @model_validator(mode="before")
    @classmethod
    def _decimal_in_short(cls, given: Any) -> Any:
        kind = given.get("type") if isinstance(given, Mapping) else None
        if not isinstance(kind, str) or not (short := _DECIMAL.fullmatch(kind)):
            return given
        return {**given, "type": "decimal", "precision": int(short[1]), "scale": int(short[2] or 0)}

    @model_validator(mode="after")
    def _options_are_of_the_type(self) -> Self:
        if self.case != "keep" and self.type != "text":
            raise ValueError(f"column {self.name!r}: case={self.case!r} is for text only")
        if self.type == "decimal":
            if self.precision is None or (self.scale or 0) > self.precision:
                raise ValueError(f"column {self.name!r}: write decimal(p, s), with s at most p")
        elif self.precision is not None or self.scale is not None:
            raise ValueError(f"column {self.name!r}: precision and scale are for decimal only")
        if self.format is not None:
            self._check_format(self.format)
        if self.timezone is not None:
            self._check_timezone(self.timezone)
        return self

    def _check_format(self, given: str) -> None:
        if self.type not in {"date", "timestamp"}:
            raise ValueError(f"column {self.name!r}: format is for date and timestamp only")
        used = re.findall("%(.?)", given, re.DOTALL)
        if wrong := [f"%{letter}" for letter in used if letter not in DIRECTIVES or not letter]:
            raise ValueError(f"column {self.name!r}: format has the unknown directive {wrong[0]}")
        for choice in ("Yy", "mbB", "d", "HI", "M", "S", "f", "p", "z"):
            count = sum(used.count(letter) for letter in choice)
            if count > 1 or (count == 0 and choice in {"Yy", "mbB", "d"}):
                raise ValueError(
                    f"column {self.name!r}: format needs a year, a month and a day, and each directive at most once"
                )
        if ("I" in used) != ("p" in used):
            raise ValueError(f"column {self.name!r}: format needs %I and %p together")
        if self.type == "date" and set(used) & set("HIMSfpz"):
            raise ValueError(f"column {self.name!r}: the format of a date has no time; declare a timestamp")

    def _check_timezone(self, given: str) -> None:
        if self.type != "timestamp":
            raise ValueError(f"column {self.name!r}: timezone is for timestamp only")
        try:
            ZoneInfo(given)
        except (KeyError, ValueError, OSError):
            raise ValueError(f"column {self.name!r}: {given!r} is not a time zone such as Europe/Berlin") from None


class TableJob(Job):
    """What all three jobs know: the table, its columns and what becomes of the rows that are there already.

    ``append`` adds rows; with a ``key``, a row replaces the one that has the same key, and of two rows in one source
    the later one stays. ``replace`` empties the table first, in the same transaction.

    Attributes:
        max_rejected: Above this, the run fails before the table is touched: a number of rows, or with a point the
            share of all rows, 0.0 to 1.0. If not given, ``replace`` allows none and ``append`` any number.
        allow_empty: Whether a source without a single row may empty the table.
    """

    table: Table
    columns: Annotated[tuple[Column, ...], Field(min_length=1, max_length=MOST_COLUMNS)]
    key: tuple[Identifier, ...] = ()
    mode: Mode = "append"
    max_rejected: Annotated[int | float, Field(ge=0), AfterValidator(_share)] | None = None
    allow_empty: bool = False

    @model_validator(mode="after")
    def _columns_are_told_apart(self) -> Self:
        names = [column.name for column in self.columns]
        if repeated := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"columns: {', '.join(sorted(repeated))} named more than once")
        if unknown := set(self.key) - set(names):
            raise ValueError(f"key: {', '.join(sorted(unknown))} is not among the columns")
        if len(set(self.key)) < len(self.key):
            raise ValueError("key: names a column twice")
        return self


class SourceJob(TableJob):
    r"""What the two jobs know that deal with the source: how it is written.

    Attributes:
        format: ``csv`` with a header, ``jsonl`` (one JSON object in each line) or ``parquet``.
        delimiter: Between the cells of a CSV file. If not given, what its first line ``sep=;`` says, else a comma.
        encoding: Of a text, as Python names it. If not given: UTF-16 or UTF-32 with a byte order mark, UTF-8, or what
            the web server says.
        decimal_mark: In numbers that are written as text.
        thousands_mark: Between groups of digits, if any. A space stands for the non-breaking ones too.
        missing: Spellings of a missing value beside the empty cell, such as ``NA``. If not given, a cell of a CSV file
            without quotes that is ``NULL`` or ``\N``, as databases write it.
    """

    format: Format
    delimiter: Annotated[str, StringConstraints(pattern=r'^[^"\r\n\w.+-]$')] | None = None
    encoding: Annotated[str, StringConstraints(min_length=1, max_length=40), AfterValidator(_encoding)] | None = None
    decimal_mark: Literal[".", ","] = "."
    thousands_mark: Literal["", ".", ",", " ", "'", "_"] = ""
    missing: Annotated[tuple[Annotated[str, StringConstraints(max_length=100)], ...], Field(max_length=50)] | None = (
        None
    )

    @model_validator(mode="after")
    def _marks_are_told_apart(self) -> Self:
        if self.decimal_mark == self.thousands_mark:
            raise ValueError("decimal_mark and thousands_mark are the same")
        return self


class RunPipeline(SourceJob, queue="etl"):
    """Read a source, check and type its rows, load the good ones into a table and keep the others with their reasons.

    ``source`` is a key in the service's storage, or a URL on a host that its operator has allowed. What is packed with
    gzip, bzip2, xz, zstd or as the one file of a zip archive is unpacked first.
    """

    source: Source


class TransformTable(SourceJob, queue="etl"):
    """Second step, sent by ``RunPipeline``: split what was extracted into typed rows and rejects."""

    run_id: RunId
    extract: Key


class LoadTable(TableJob, queue="etl"):
    """Third step, sent by ``TransformTable``: load the typed rows, once."""

    run_id: RunId
    rows: Key
    rejects: Key | None = None
    rows_rejected: Annotated[int, Field(ge=0)] = 0
