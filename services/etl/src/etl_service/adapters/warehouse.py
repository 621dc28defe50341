"""Loading through ADBC: rows and the job's mark in one transaction, whatever the database."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Generic, Protocol, TypeVar

import pyarrow as pa  # type: ignore[import-untyped]  # ships no types
import pyarrow.parquet as pq  # type: ignore[import-untyped]  # ships no types
from adbc_driver_manager import Error
from adbc_driver_manager.dbapi import Connection, Cursor
from pydantic import TypeAdapter

from etl_service.adapters.rounded import rounded_of
from etl_service.adapters.transaction import AdbcTransaction
from etl_service.errors import NothingToLoad, TableMismatch
from jobkit.contracts.etl import INBOX_TABLE, Column, TableJob
from jobkit.errors import JobkitError
from jobkit.inbox import Dialect, Inbox

#: Marks of finished loads, in the database that they went to.
INBOX = Inbox(INBOX_TABLE)

#: Rows wait there until all have arrived; no table of a job can have a name with a space in front.
STAGING = '" rows"'

#: What a dialect knows about a column of the table.
T = TypeVar("T")


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

        The rows and the mark commit together. Of two loads with one mark at a time, one waits for the other, and so
        does any writer of a table that is replaced.

        Raises:
            TableMismatch: the table cannot take the rows as it is, or a value would change in it.
            DatabaseRefuses: the database refuses for another reason that no wait mends.
            NothingToLoad: the table would be emptied, and the job does not allow that.
            DatabaseUnavailable: the database is busy, or down (``DatabaseDown``); nothing was changed.
        """


class AdbcWarehouse(ABC, Generic[T]):
    """The steps of a load that all databases share; a subclass knows one dialect."""

    dialect: ClassVar[Dialect]
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
    def lock_table(self, cursor: Cursor, table: str) -> None:
        """Keep others from writing to the table until the end of the transaction."""

    @abstractmethod
    def explain(self, error: Error) -> JobkitError:
        """The error of this service that says the same."""

    @abstractmethod
    def type_of(self, column: Column, *, staged: bool = False) -> str:
        """The SQL type of a column in a table that the service makes, or in the one where rows wait."""

    @abstractmethod
    def columns_of(self, cursor: Cursor, table: str) -> Mapping[str, T]:
        """The columns of a table by their names, in lower case if the database does not tell cases apart.

        None if there is no such table.
        """

    @abstractmethod
    def find(self, existing: Mapping[str, T], name: str) -> T | None:
        """The column of that name, as the database compares names."""

    @abstractmethod
    def value(self, column: Column, target: T) -> str:
        """The SQL expression of a staged cell that the target column takes."""

    @abstractmethod
    def key(self, column: Column, target: T) -> str:
        """The SQL expression of a staged cell that is equal for two rows if their keys are equal in the table."""

    @abstractmethod
    def first_changed(self, cursor: Cursor, columns: Iterable[tuple[Column, T]]) -> Iterable[tuple[Column, T, int]]:
        """The columns in which a staged value would become another, each with the number of the first such row."""

    @abstractmethod
    def keeps_double(self, target: T) -> bool:
        """Whether a column of that type is expected to hold a double, and no exact number."""

    def prepared(self, rows: pa.Table) -> pa.Table:
        """The rows as the driver takes them."""
        return rows

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
            if not self.columns_of(cursor, INBOX_TABLE):
                return None
            found = INBOX.find(AdbcTransaction(cursor, self.dialect), mark)
        return replace(_KEPT.validate_python(found.result), already_loaded=True) if found else None

    def load(self, mark: str, table: TableJob, rows: Path, *, progress: Callable[[float], object]) -> Outcome:
        """See ``Warehouse``."""
        with self._transaction() as cursor:

            def load() -> dict[str, int]:
                targets = self._make_table(cursor, table)
                staged, rounded = self._stage(cursor, table, rows, progress)
                self._refuse_changes(cursor, table, targets, rounded)
                if table.mode == "replace":
                    self._empty(cursor, table, staged)
                loaded = self._move(cursor, table, targets)
                return {"rows_loaded": loaded, "rows_superseded": staged - loaded}

            transaction = AdbcTransaction(cursor, self.dialect)
            INBOX.create(transaction)
            done = INBOX.once(transaction, mark, load)
        return replace(_KEPT.validate_python(done.result), already_loaded=done.repeated)

    def _definitions(self, table: TableJob) -> list[str]:
        needed = {*table.key, *(column.name for column in table.columns if column.required)}
        return [f'"{c.name}" {self.type_of(c)}{" NOT NULL" if c.name in needed else ""}' for c in table.columns]

    def _make_table(self, cursor: Cursor, table: TableJob) -> dict[str, T]:
        existing = self.columns_of(cursor, table.table)
        if not existing:
            self.lock_schema(cursor)
            key = [f"PRIMARY KEY ({_names(table.key)})"] if table.key else []
            cursor.execute(
                f'CREATE TABLE IF NOT EXISTS "{table.table}" ({", ".join([*self._definitions(table), *key])})'
            )
            existing = self.columns_of(cursor, table.table)
        found = {column.name: self.find(existing, column.name) for column in table.columns}
        targets = {name: target for name, target in found.items() if target is not None}
        if missing := [name for name in found if name not in targets]:
            raise TableMismatch(
                f"table {table.table!r} exists without the columns {', '.join(missing)} "
                f"(it has {', '.join(existing)[:300]}): add them or load into another"
            )
        return targets

    def _stage(
        self, cursor: Cursor, table: TableJob, rows: Path, progress: Callable[[float], object]
    ) -> tuple[int, Mapping[str, int]]:
        columns = ", ".join(f'"{c.name}" {self.type_of(c, staged=True)}' for c in table.columns)
        number = self.type_of(Column(name="row", type="integer"), staged=True)
        cursor.execute(f'CREATE TEMPORARY TABLE {STAGING} ("_row" {number}, {columns}){self.staging_suffix}')
        staged = 0
        with pq.ParquetFile(rows) as file:
            for group in range(file.num_row_groups):  # of one batch of the transform, which bounds its size
                some = file.read_row_group(group)
                if some.num_rows:
                    cursor.adbc_ingest(STAGING.strip('"'), self.prepared(some), mode="append", temporary=True)
                staged += some.num_rows
                progress(90 * staged / max(1, file.metadata.num_rows))
            return staged, rounded_of(file.metadata.metadata)

    def _refuse_changes(
        self, cursor: Cursor, table: TableJob, targets: Mapping[str, T], rounded: Mapping[str, int]
    ) -> None:
        pairs = [(column, targets[column.name]) for column in table.columns]
        for column, target in pairs:
            if column.name in rounded and not self.keeps_double(target):
                raise TableMismatch(
                    f"column {column.name!r} of table {table.table!r} is {target}, and row {rounded[column.name]} has "
                    "more digits than a number keeps: declare it decimal(p, s)"
                )
        for column, target, row in self.first_changed(cursor, pairs):
            raise TableMismatch(
                f"column {column.name!r} of table {table.table!r} is {target}, and the {column.type} in row {row} "
                "would change: declare the type that the column has, or change the column"
            )

    def _empty(self, cursor: Cursor, table: TableJob, staged: int) -> None:
        if not staged and not table.allow_empty:
            raise NothingToLoad(f"table {table.table!r} is not emptied: no row to load, and allow_empty is not set")
        self.lock_table(cursor, table.table)
        cursor.execute(f'DELETE FROM "{table.table}"')  # noqa: S608  Identifiers of the contract

    def _move(self, cursor: Cursor, table: TableJob, targets: Mapping[str, T]) -> int:
        columns = _names(column.name for column in table.columns)
        values = ", ".join(self.value(column, targets[column.name]) for column in table.columns)
        source, conflict, order = STAGING, "", '"_row"'
        if table.key:
            # In the order of the keys, so that two loads at a time wait for each other, and not crosswise.
            order = ", ".join(self.key(c, targets[c.name]) for c in table.columns if c.name in table.key)
            rank = f'row_number() OVER (PARTITION BY {order} ORDER BY "_row" DESC) AS " rank"'
            source = f'(SELECT *, {rank} FROM {STAGING}) AS " ranked" WHERE " rank" = 1'  # noqa: S608  Identifiers of the contract
            others = [column.name for column in table.columns if column.name not in table.key]
            update = ", ".join(f'"{name}" = excluded."{name}"' for name in others)
            conflict = f"ON CONFLICT ({_names(table.key)}) DO {f'UPDATE SET {update}' if update else 'NOTHING'}"
        rows = f"SELECT {values} FROM {source} ORDER BY {order}"  # noqa: S608  Identifiers of the contract
        cursor.execute(f'INSERT INTO "{table.table}" ({columns}) {rows} {conflict}')
        cursor.execute(f"SELECT count(*) FROM {source}")  # noqa: S608  Identifiers of the contract
        found = cursor.fetchone()
        return int(found[0]) if found else 0


def _names(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)
