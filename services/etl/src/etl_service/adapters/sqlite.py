"""Loading into an SQLite file."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import adbc_driver_sqlite.dbapi
from adbc_driver_manager import Error, IntegrityError
from adbc_driver_manager.dbapi import Connection, Cursor

from etl_service.adapters.warehouse import AdbcWarehouse
from etl_service.errors import DatabaseUnavailable, TableMismatch
from jobkit.contracts.etl import ColumnType
from jobkit.errors import JobkitError, SettingsError
from jobkit.inbox import SQLITE


class SqliteWarehouse(AdbcWarehouse):
    """``Warehouse`` in one file. Dates and times are ISO 8601 texts (times in UTC), booleans are 0 and 1.

    SQLite's locks hold between processes, and between the connections of one SQLite library. The driver brings a
    library of its own: another one in the same process (Python's ``sqlite3``) must not have the file open during a
    load (https://www.sqlite.org/howtocorrupt.html, section 2.2.1).
    """

    types: ClassVar[Mapping[ColumnType, str]] = {
        "text": "TEXT",
        "integer": "INTEGER",
        "number": "REAL",
        "boolean": "INTEGER",
        "date": "TEXT",
        "timestamp": "TEXT",
    }
    dialect = SQLITE
    columns_query = "SELECT name FROM pragma_table_info($1)"

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

    def explain(self, error: Error) -> JobkitError:
        """See ``AdbcWarehouse``."""
        line = str(error).partition("\n")[0] or type(error).__name__
        if "ON CONFLICT" in str(error):
            return TableMismatch("the table has no unique index on the job's key: make one, or load without a key")
        if isinstance(error, IntegrityError):
            return TableMismatch(f"the table refuses the rows: {line.removeprefix('INTEGRITY: ')}")
        return DatabaseUnavailable(f"SQLite file {self._path}: {line.rpartition(': ')[2]}")
