"""Jobs of the etl service: a table is read, checked and loaded in three jobs, each of which sends the next."""

from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from jobkit.contracts.job import Job

#: PostgreSQL cuts longer names silently; lower case alone spares everybody the quoting.
Identifier = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]

Format = Literal["csv", "jsonl", "parquet"]
ColumnType = Literal["text", "integer", "number", "boolean", "date", "timestamp"]
Mode = Literal["append", "replace"]

#: The service keeps its marks of finished loads there, in the same database.
INBOX_TABLE = "jobkit_inbox"


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
    if value == INBOX_TABLE or value.startswith(("sqlite_", "pg_")):
        raise ValueError(f"{value!r} belongs to the database or to the service: choose another table")
    return value


Key = Annotated[str, StringConstraints(min_length=1, max_length=1024)]
Source = Annotated[str, StringConstraints(min_length=1, max_length=2048), AfterValidator(_source)]
Table = Annotated[Identifier, AfterValidator(_table)]
RunId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$")]


class Column(BaseModel):
    """One column of the table, and how its cells are read.

    An empty cell is a missing value. Other cells must read as the type, strictly:

    - ``text``: anything but the NUL character, which PostgreSQL cannot keep.
    - ``integer``: a whole number of 64 bits, as ``12``, ``-3`` or ``12.0``.
    - ``number``: a finite decimal number with a point, as ``1.5`` or ``2e-3``.
    - ``boolean``: true/false, t/f, yes/no, y/n, 1/0 in any case.
    - ``date``: ISO 8601, ``2026-10-01``; a time of midnight is accepted.
    - ``timestamp``: ISO 8601, ``2026-10-01T08:30:00+02:00``; kept in UTC with microseconds, and taken as UTC if it
      names no offset.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Identifier
    type: ColumnType
    source_name: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    required: bool = False
    trim: bool = True
    case: Literal["keep", "lower", "upper"] = "keep"

    @property
    def source(self) -> str:
        """The column's name in the source."""
        return self.source_name or self.name

    @model_validator(mode="after")
    def _case_is_for_text(self) -> Self:
        if self.case != "keep" and self.type != "text":
            raise ValueError(f"column {self.name!r}: case={self.case!r} is for text only")
        return self


class TableJob(Job):
    """What all three jobs know: the table, its columns and what becomes of the rows that are there already.

    ``append`` adds rows; with a ``key``, a row replaces the one that has the same key, and of two rows in one source
    the later one stays. ``replace`` empties the table first, in the same transaction.
    """

    table: Table
    columns: Annotated[tuple[Column, ...], Field(min_length=1, max_length=500)]
    key: tuple[Identifier, ...] = ()
    mode: Mode = "append"

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


class RunPipeline(TableJob, queue="etl"):
    """Read a source, check and type its rows, load the good ones into a table and keep the others with their reasons.

    ``source`` is a key in the service's storage, or a URL on a host that its operator has allowed.
    """

    source: Source
    format: Format


class TransformTable(TableJob, queue="etl"):
    """Second step, sent by ``RunPipeline``: split what was extracted into typed rows and rejects."""

    run_id: RunId
    extract: Key
    format: Format


class LoadTable(TableJob, queue="etl"):
    """Third step, sent by ``TransformTable``: load the typed rows, once."""

    run_id: RunId
    rows: Key
    rejects: Key | None = None
    rows_rejected: Annotated[int, Field(ge=0)] = 0
