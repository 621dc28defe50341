"""Loading into an SQLite file."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import adbc_driver_sqlite.dbapi
import pyarrow as pa  # type: ignore[import-untyped]  # ships no types
from adbc_driver_manager import Error, IntegrityError
from adbc_driver_manager.dbapi import Connection, Cursor

from etl_service.adapters.warehouse import STAGING, AdbcWarehouse
from etl_service.errors import DatabaseDown, DatabaseRefuses, DatabaseUnavailable, TableMismatch
from jobkit.contracts.etl import Column, ColumnType
from jobkit.errors import JobkitError, SettingsError
from jobkit.inbox import SQLITE

_TYPES: Final[Mapping[ColumnType, str]] = {
    "text": "TEXT",
    "integer": "INTEGER",
    "number": "REAL",
    "decimal": "TEXT",
    "boolean": "INTEGER",
    "date": "TEXT",
    "timestamp": "TEXT",
    "uuid": "TEXT",
    "json": "TEXT",
}

# The driver hands on no codes, but SQLite's own texts for them (sqlite3_errstr), which are not translated.

#: SQLITE_BUSY, SQLITE_LOCKED.
_BUSY = ("database is locked", "database table is locked", "database schema is locked")

#: SQLITE_IOERR, SQLITE_FULL, SQLITE_CANTOPEN, also as the driver says it.
_DOWN = ("disk I/O error", "database or disk is full", "unable to open database file", "failed to open")

#: About the file as a whole, and permanent.
_OF_THE_FILE = ("file is not a database", "database disk image is malformed", "attempt to write a readonly database")

#: What the driver puts before SQLite's text.
_DRIVER = re.compile(r"^(?:[A-Z_]+: )?(?:\[[^]]*\] )?(?:Failed to \w+ query: )?")

#: A copy of staged cells in columns like those of the table.
_KEPT = '" kept"'


@dataclass(frozen=True)
class Target:
    """A column of the table: its declared type, and the collation of the unique index that it is part of."""

    type: str
    collation: str

    def __str__(self) -> str:
        return self.type or "of no type"

    @property
    def affinity(self) -> str:
        """What values are turned into (https://www.sqlite.org/datatype3.html, 3.1)."""
        declared = self.type.upper()
        if "INT" in declared:
            return "INTEGER"
        if any(part in declared for part in ("CHAR", "CLOB", "TEXT")):
            return "TEXT"
        if not declared or "BLOB" in declared:
            return "BLOB"
        return "REAL" if any(part in declared for part in ("REAL", "FLOA", "DOUB")) else "NUMERIC"


class SqliteWarehouse(AdbcWarehouse[Target]):
    """``Warehouse`` in one file. Dates and times are ISO 8601 texts (times in UTC), booleans 0 and 1, decimals texts.

    SQLite's locks hold between processes, and between the connections of one SQLite library. The driver brings a
    library of its own: another one in the same process (Python's ``sqlite3``) must not have the file open during a
    load (https://www.sqlite.org/howtocorrupt.html, section 2.2.1).
    """

    dialect = SQLITE

    _COLUMNS = """
        SELECT name, type, (
            SELECT coll FROM pragma_index_list($1) AS i JOIN pragma_index_xinfo(i.name) AS part
            WHERE i."unique" AND part."key" AND part.name = c.name LIMIT 1
        ) FROM pragma_table_info($1) AS c
    """

    def __init__(self, path: Path, *, timeout: float) -> None:
        self._path = path
        self._timeout = timeout

    @classmethod
    def at(cls, path: Path, *, timeout: float) -> "SqliteWarehouse":
        """The database in that file; ``timeout`` is the seconds to wait for another's lock. Makes the folder.

        Raises:
            SettingsError: the folder cannot be made or written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab"):  # an empty file is an empty database
                pass
        except OSError as error:
            raise SettingsError(f"ETL_DATABASE_URL: {path} cannot be written: {error.strerror}") from error
        return cls(path, timeout=timeout)

    def connect(self) -> Connection:
        """See ``AdbcWarehouse``."""
        return adbc_driver_sqlite.dbapi.connect(str(self._path), autocommit=True)

    def begin(self, cursor: Cursor) -> None:
        """See ``AdbcWarehouse``."""
        cursor.execute(f"PRAGMA busy_timeout = {int(self._timeout * 1000)}")
        cursor.fetchall()
        # A plain BEGIN takes the write lock only at the first write, when SQLite no longer waits for it.
        cursor.execute("BEGIN IMMEDIATE")

    def commit(self, connection: Connection, cursor: Cursor) -> None:  # noqa: ARG002  PostgreSQL needs the other
        """See ``AdbcWarehouse``."""
        cursor.execute("COMMIT")

    def lock_schema(self, cursor: Cursor) -> None:
        """See ``AdbcWarehouse``; BEGIN IMMEDIATE has done so."""

    def lock_table(self, cursor: Cursor, table: str) -> None:
        """See ``AdbcWarehouse``; BEGIN IMMEDIATE has done so."""

    def type_of(self, column: Column, *, staged: bool = False) -> str:  # noqa: ARG002  they are the same here
        """See ``AdbcWarehouse``."""
        return _TYPES[column.type]

    def columns_of(self, cursor: Cursor, table: str) -> Mapping[str, Target]:
        """See ``AdbcWarehouse``."""
        cursor.execute(self._COLUMNS, (table,))
        return {name.lower(): Target(kind or "", collation or "BINARY") for name, kind, collation in cursor.fetchall()}

    def find(self, existing: Mapping[str, Target], name: str) -> Target | None:
        """See ``AdbcWarehouse``."""
        return existing.get(name.lower())

    def value(self, column: Column, target: Target) -> str:  # noqa: ARG002  PostgreSQL needs the other
        """See ``AdbcWarehouse``."""
        return f'"{column.name}"'

    def key(self, column: Column, target: Target) -> str:
        """See ``AdbcWarehouse``."""
        return f'"{column.name}" COLLATE "{target.collation}"'

    def keeps_double(self, target: Target) -> bool:
        """See ``AdbcWarehouse``; SQLite has no other numbers with a fraction."""
        return target.affinity != "TEXT"

    def prepared(self, rows: pa.Table) -> pa.Table:
        """See ``AdbcWarehouse``; the driver takes no decimals."""
        for index, field in enumerate(rows.schema):
            if pa.types.is_decimal(field.type):
                texts = [None if value is None else format(value, "f") for value in rows.column(index).to_pylist()]
                rows = rows.set_column(index, field.name, pa.array(texts, pa.string()))
        return rows

    def first_changed(
        self, cursor: Cursor, columns: Iterable[tuple[Column, Target]]
    ) -> Iterable[tuple[Column, Target, int]]:
        """See ``AdbcWarehouse``: cells are put into columns of the same affinity, and looked at."""
        other = [(c, t) for c, t in columns if t.affinity not in {_TYPES[c.type], "BLOB"}]
        if not other:
            return
        names = ", ".join(f'"{column.name}"' for column, _ in other)
        types = ", ".join(f'"{column.name}" {target.affinity}' for column, target in other)
        cursor.execute(f'CREATE TEMPORARY TABLE {_KEPT} ("_row" INTEGER PRIMARY KEY, {types})')
        cursor.execute(f'INSERT INTO {_KEPT} SELECT "_row", {names} FROM {STAGING}')  # noqa: S608  Identifiers
        for column, target in other:
            cursor.execute(
                f'SELECT min(staged."_row") FROM {STAGING} AS staged JOIN {_KEPT} AS kept USING ("_row") '  # noqa: S608
                f"WHERE {_changed(column)}"
            )
            if (row := cursor.fetchall()[0][0]) is not None:
                yield column, target, int(row)
        cursor.execute(f"DROP TABLE {_KEPT}")

    def explain(self, error: Error) -> JobkitError:
        """See ``AdbcWarehouse``."""
        line = _DRIVER.sub("", str(error).partition("\n")[0])
        if "ON CONFLICT" in str(error):
            return TableMismatch("the table has no unique index on the job's key: make one, or load without a key")
        if isinstance(error, IntegrityError):
            return TableMismatch(f"the table refuses the rows: {line}")
        shown = f"SQLite file {self._path}: {line or type(error).__name__}"
        if line.startswith(_BUSY):
            return DatabaseUnavailable(shown)
        if not line.strip() or line.startswith(_DOWN) or line == "ERROR:":
            return DatabaseDown(shown)
        return DatabaseRefuses(shown) if line.startswith(_OF_THE_FILE) else TableMismatch(shown)


def _changed(column: Column) -> str:
    """Return the SQL condition under which a cell of ``kept`` is another value than that of ``staged``."""
    kept, staged = f'kept."{column.name}"', f'staged."{column.name}"'
    match column.type:
        case "integer" | "boolean":
            return f"CAST({kept} AS NUMERIC) <> {staged}"
        case "number":
            return f"CAST({kept} AS REAL) <> {staged}"
        case "decimal" if column.scale:
            return f"{_shortest(f'CAST({kept} AS TEXT)')} <> {_shortest(staged)}"
        case _:
            return f"CAST({kept} AS TEXT) <> {staged}"


def _shortest(number: str) -> str:
    return f"CASE WHEN instr({number}, '.') THEN rtrim(rtrim({number}, '0'), '.') ELSE {number} END"
