"""Loading through ADBC: rows and the job's mark in one transaction, whatever the database."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Protocol

import pyarrow.parquet as pq  # type: ignore[import-untyped]  # ships no types
from adbc_driver_manager import Error
from adbc_driver_manager.dbapi import Connection, Cursor
from pydantic import TypeAdapter

from etl_service.adapters.transaction import AdbcTransaction
from etl_service.errors import TableMismatch
from jobkit.contracts.etl import INBOX_TABLE, ColumnType, TableJob
from jobkit.errors import JobkitError
from jobkit.inbox import Dialect, Inbox

#: Marks of finished loads, in the database that they went to.
INBOX = Inbox(INBOX_TABLE)

#: Rows per ingest, between which progress is reported and a time limit can take hold.
BATCH_ROWS = 50_000

#: Rows wait there until all have arrived; no column or table of a job can have a name with an underscore in front.
_STAGING = '"_rows"'


@dataclass(frozen=True)
class Outcome:
    """What became of the staged rows: written, or superseded by a later row of the same source with the same key."""

    rows_loaded: int
    rows_superseded: int
    already_loaded: bool = False


#: An outcome as the inbox keeps it.
_KEPT = TypeAdapter(Outcome)


class Warehouse(Protocol):
    """What the handlers need of a database."""

    def outcome(self, mark: str) -> Outcome | None:
        """What the load with that mark did, if there was one."""

    def load(self, mark: str, table: TableJob, rows: Path, *, progress: Callable[[float], object]) -> Outcome:
        """Load a Parquet file of typed rows, unless a load with that mark has committed: then change nothing.

        The rows and the mark commit together. Of two loads with one mark at a time, one waits for the other.

        Raises:
            TableMismatch: the table cannot take the rows as it is.
            DatabaseUnavailable: the database is down, locked or full; nothing was changed.
        """


class AdbcWarehouse(ABC):
    """The steps of a load that all databases share; a subclass knows one dialect."""

    types: ClassVar[Mapping[ColumnType, str]]
    dialect: ClassVar[Dialect]
    columns_query: ClassVar[str]  # table $1 → the names of its columns, none if there is no such table
    staging_suffix: ClassVar[str] = ""

    @abstractmethod
    def connect(self) -> Connection:
        """A connection of its own for each load: a failed one cannot spoil the next."""

    @abstractmethod
    def begin(self, cursor: Cursor) -> None:
        """Start the transaction and bound all waits in it."""

    @abstractmethod
    def commit(self, connection: Connection, cursor: Cursor) -> None:
        """Commit the transaction."""

    @abstractmethod
    def lock_schema(self, cursor: Cursor) -> None:
        """Keep other loads from making tables until the end of the transaction."""

    @abstractmethod
    def explain(self, error: Error) -> JobkitError:
        """The error of this service that says the same."""

    @contextmanager
    def _transaction(self) -> Iterator[Cursor]:
        try:
            with self.connect() as connection, connection.cursor() as cursor:
                self.begin(cursor)
                yield cursor
                self.commit(connection, cursor)
        except Error as error:
            raise self.explain(error) from error

    def outcome(self, mark: str) -> Outcome | None:
        """See ``Warehouse``."""
        with self._transaction() as cursor:
            if not self._columns(cursor, INBOX_TABLE):
                return None
            found = INBOX.find(AdbcTransaction(cursor, self.dialect), mark)
        return replace(_KEPT.validate_python(found.result), already_loaded=True) if found else None

    def load(self, mark: str, table: TableJob, rows: Path, *, progress: Callable[[float], object]) -> Outcome:
        """See ``Warehouse``."""
        with self._transaction() as cursor:

            def load() -> dict[str, int]:
                self._make_table(cursor, table)
                staged = self._stage(cursor, table, rows, progress)
                loaded = self._move(cursor, table)
                return {"rows_loaded": loaded, "rows_superseded": staged - loaded}

            transaction = AdbcTransaction(cursor, self.dialect)
            INBOX.create(transaction)
            done = INBOX.once(transaction, mark, load)
        return replace(_KEPT.validate_python(done.result), already_loaded=done.repeated)

    def _columns(self, cursor: Cursor, table: str) -> set[str]:
        cursor.execute(self.columns_query, (table,))
        return {row[0] for row in cursor.fetchall()}

    def _definitions(self, table: TableJob) -> list[str]:
        needed = {*table.key, *(column.name for column in table.columns if column.required)}
        return [f'"{c.name}" {self.types[c.type]}{" NOT NULL" if c.name in needed else ""}' for c in table.columns]

    def _make_table(self, cursor: Cursor, table: TableJob) -> None:
        existing = self._columns(cursor, table.table)
        if not existing:
            self.lock_schema(cursor)
            key = [f"PRIMARY KEY ({_names(table.key)})"] if table.key else []
            cursor.execute(
                f'CREATE TABLE IF NOT EXISTS "{table.table}" ({", ".join([*self._definitions(table), *key])})'
            )
            existing = self._columns(cursor, table.table)
        if missing := [column.name for column in table.columns if column.name not in existing]:
            raise TableMismatch(
                f"table {table.table!r} exists without the columns {', '.join(missing)}: add them or load into another"
            )
        if table.mode == "replace":
            cursor.execute(f'DELETE FROM "{table.table}"')  # noqa: S608  Identifiers of the contract

    def _stage(self, cursor: Cursor, table: TableJob, rows: Path, progress: Callable[[float], object]) -> int:
        columns = ", ".join(
            [f'"_row" {self.types["integer"]}', *(f'"{c.name}" {self.types[c.type]}' for c in table.columns)]
        )
        cursor.execute(f"CREATE TEMPORARY TABLE {_STAGING} ({columns}){self.staging_suffix}")
        staged = 0
        with pq.ParquetFile(rows) as file:
            for batch in file.iter_batches(BATCH_ROWS):
                cursor.adbc_ingest(_STAGING.strip('"'), batch, mode="append", temporary=True)
                staged += batch.num_rows
                progress(90 * staged / file.metadata.num_rows)
        return staged

    @staticmethod
    def _move(cursor: Cursor, table: TableJob) -> int:
        columns = _names(column.name for column in table.columns)
        source, conflict = _STAGING, ""
        if table.key:
            key = _names(table.key)
            rank = f'row_number() OVER (PARTITION BY {key} ORDER BY "_row" DESC) AS "_rank"'
            source = f'(SELECT *, {rank} FROM {_STAGING}) AS "_ranked" WHERE "_rank" = 1'  # noqa: S608  Identifiers of the contract
            others = [column.name for column in table.columns if column.name not in table.key]
            update = ", ".join(f'"{name}" = excluded."{name}"' for name in others)
            conflict = f"ON CONFLICT ({key}) DO {f'UPDATE SET {update}' if update else 'NOTHING'}"
        rows = f'SELECT {columns} FROM {source} ORDER BY "_row"'  # noqa: S608  Identifiers of the contract
        cursor.execute(f'INSERT INTO "{table.table}" ({columns}) {rows} {conflict}')
        cursor.execute(f"SELECT count(*) FROM {source}")  # noqa: S608  Identifiers of the contract
        found = cursor.fetchone()
        return int(found[0]) if found else 0


def _names(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)
