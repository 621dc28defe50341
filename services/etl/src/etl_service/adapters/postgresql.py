"""Loading into PostgreSQL."""

from collections.abc import Mapping
from typing import ClassVar
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import adbc_driver_postgresql.dbapi  # type: ignore[import-untyped]  # ships no types
from adbc_driver_manager import Error
from adbc_driver_manager.dbapi import Connection, Cursor

from etl_service.adapters.warehouse import AdbcWarehouse
from etl_service.errors import DatabaseUnavailable, TableMismatch
from jobkit.contracts.etl import ColumnType
from jobkit.errors import JobkitError
from jobkit.inbox import POSTGRESQL

#: Classes of SQLSTATE that say that rows and table do not fit: bad data, broken constraint, bad reference
#: (https://www.postgresql.org/docs/current/errcodes-appendix.html).
_PERMANENT = ("22", "23", "42")

#: Missing rights look like a bad reference, and are the operator's to mend.
_NOT_ALLOWED = "42501"
_NO_UNIQUE_INDEX = "42P10"


class PostgresqlWarehouse(AdbcWarehouse):
    """``Warehouse`` in PostgreSQL; tables are looked up along the search path of the URL's user."""

    types: ClassVar[Mapping[ColumnType, str]] = {
        "text": "text",
        "integer": "bigint",
        "number": "double precision",
        "boolean": "boolean",
        "date": "date",
        "timestamp": "timestamp with time zone",
    }
    dialect = POSTGRESQL
    columns_query = (
        "SELECT attname::text FROM pg_attribute "
        "WHERE attrelid = to_regclass(quote_ident($1)) AND attnum > 0 AND NOT attisdropped"
    )
    staging_suffix = " ON COMMIT DROP"

    def __init__(self, url: str, *, timeout: float) -> None:
        """``timeout``: seconds to wait for a connection, and for another load's lock."""
        self._timeout = timeout
        parts = urlsplit(url)
        given = dict(parse_qsl(parts.query))
        defaults = {
            "application_name": "etl-service",
            "connect_timeout": str(max(2, round(timeout))),  # libpq takes whole seconds, at least 2
            "keepalives_idle": "30",
            "tcp_user_timeout": str(round(timeout * 1000)),  # a server that vanished in mid-load, in milliseconds
        }
        self._url = urlunsplit(parts._replace(query=urlencode(defaults | given, quote_via=quote)))
        self._shown = f"{parts.hostname or 'local socket'}:{parts.port or 5432}"

    def connect(self) -> Connection:
        """See ``AdbcWarehouse``."""
        connection: Connection = adbc_driver_postgresql.dbapi.connect(self._url)
        return connection

    def begin(self, cursor: Cursor) -> None:
        """See ``AdbcWarehouse``; the driver starts the transaction with the first statement."""
        cursor.execute(f"SET LOCAL lock_timeout = {int(self._timeout * 1000)}")
        cursor.execute("SET LOCAL TIME ZONE 'UTC'")

    def commit(self, connection: Connection, cursor: Cursor) -> None:  # noqa: ARG002  SQLite needs the other
        """See ``AdbcWarehouse``."""
        connection.commit()

    def lock_schema(self, cursor: Cursor) -> None:
        """See ``AdbcWarehouse``: CREATE TABLE IF NOT EXISTS alone fails when two sessions run it at once."""
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext('etl-service schema'))")
        cursor.fetchall()

    def explain(self, error: Error) -> JobkitError:
        """See ``AdbcWarehouse``."""
        state = error.sqlstate or ""
        text = str(error).rpartition("ERROR:")[2].strip().partition("\n")[0] or type(error).__name__
        if state == _NO_UNIQUE_INDEX:
            return TableMismatch("the table has no unique index on the job's key: make one, or load without a key")
        if state.startswith(_PERMANENT) and state != _NOT_ALLOWED:
            return TableMismatch(f"the table refuses the rows: {text} (SQLSTATE {state})")
        return DatabaseUnavailable(f"PostgreSQL at {self._shown}: {text[:300]}")
