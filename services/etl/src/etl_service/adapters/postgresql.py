"""Loading into PostgreSQL."""

from collections.abc import Iterable, Mapping
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import adbc_driver_postgresql.dbapi  # type: ignore[import-untyped]  # ships no types
from adbc_driver_manager import AdbcStatusCode, Error
from adbc_driver_manager.dbapi import Connection, Cursor

from etl_service.adapters.postgresql_types import AS_TEXT, FLOATS, TYPES, Target, changed
from etl_service.adapters.warehouse import STAGING, AdbcWarehouse
from etl_service.errors import DatabaseDown, DatabaseRefuses, DatabaseUnavailable, TableMismatch
from jobkit.contracts.etl import Column
from jobkit.errors import JobkitError
from jobkit.inbox import POSTGRESQL

# SQLSTATEs that pass (https://www.postgresql.org/docs/current/errcodes-appendix.html). All others are permanent.

#: The server as a whole: connection, login, resources, operator, system, and a standby that takes no writes.
_DOWN = ("08", "28", "53", "57", "58", "25006")

#: Another transaction: deadlock, serialization, a lock, an object in use; and a statement that was cancelled.
_BUSY = ("40", "55", "57014")

#: Of class 55, and permanent if a view, a trigger or a deferrable key says so. SQL's words are not translated.
_NOT_IN_STATE = "55000"
_OF_THE_OBJECT = ("PG_DIAG_MESSAGE_HINT", "PG_DIAG_CONTEXT", "ON CONFLICT")

#: Of the classes of errors in rows and tables: bad data, broken constraint, bad reference, equal keys in one statement.
_OF_THE_TABLE = ("21", "22", "23", "42")

_NO_UNIQUE_INDEX = "42P10"

#: What the driver answers by itself, without a SQLSTATE, to what it cannot do. Otherwise none means a lost connection.
_OF_THE_DRIVER = frozenset(
    {AdbcStatusCode.NOT_IMPLEMENTED, AdbcStatusCode.INVALID_ARGUMENT, AdbcStatusCode.INVALID_DATA}
)


class PostgresqlWarehouse(AdbcWarehouse[Target]):
    """``Warehouse`` in PostgreSQL; tables are looked up along the search path of the URL's user."""

    dialect = POSTGRESQL
    staging_suffix = " ON COMMIT DROP"

    _COLUMNS = """
        WITH RECURSIVE base(number, type, modifier) AS (
            SELECT attnum, atttypid, atttypmod FROM pg_attribute
            WHERE attrelid = to_regclass(quote_ident($1)) AND attnum > 0 AND NOT attisdropped
          UNION ALL
            SELECT base.number, typbasetype, CASE typtypmod WHEN -1 THEN base.modifier ELSE typtypmod END
            FROM base JOIN pg_type ON pg_type.oid = base.type AND typtype = 'd'
        )
        SELECT attname::text, format_type(base.type, base.modifier), typname::text, typcategory::text, base.modifier,
            CASE WHEN attcollation <> typcollation
                THEN (SELECT quote_ident(nspname) || '.' || quote_ident(collname)
                    FROM pg_collation JOIN pg_namespace ON pg_namespace.oid = collnamespace
                    WHERE pg_collation.oid = attcollation) END,
            relkind::text
        FROM base
        JOIN pg_type ON pg_type.oid = base.type AND typtype <> 'd'
        JOIN pg_attribute ON attrelid = to_regclass(quote_ident($1)) AND attnum = base.number
        JOIN pg_class ON pg_class.oid = attrelid
        ORDER BY attnum
    """

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
        # Whatever the default is: a later statement must see what was committed while this load waited for a lock.
        cursor.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        cursor.execute(f"SET LOCAL lock_timeout = {int(self._timeout * 1000)}")
        cursor.execute("SET LOCAL TIME ZONE 'UTC'")
        cursor.execute("SET LOCAL extra_float_digits = 1")  # doubles as the shortest text that is the same double

    def commit(self, connection: Connection, cursor: Cursor) -> None:  # noqa: ARG002  SQLite needs the other
        """See ``AdbcWarehouse``."""
        connection.commit()

    def lock_schema(self, cursor: Cursor) -> None:
        """See ``AdbcWarehouse``: CREATE TABLE IF NOT EXISTS alone fails when two sessions run it at once."""
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext('etl-service schema'))")
        cursor.fetchall()

    def lock_table(self, cursor: Cursor, table: str) -> None:
        """See ``AdbcWarehouse``: without it, of two loads that replace neither sees the other's rows to delete."""
        targets = self.columns_of(cursor, table).values()
        if all(target.relation in {"r", "p"} for target in targets):
            cursor.execute(f'LOCK TABLE "{table}" IN SHARE ROW EXCLUSIVE MODE')

    def type_of(self, column: Column, *, staged: bool = False) -> str:
        """See ``AdbcWarehouse``."""
        if column.type == "decimal":
            return f"numeric({column.precision}, {column.scale or 0})"
        return "text" if staged and column.type in AS_TEXT else TYPES[column.type]

    def columns_of(self, cursor: Cursor, table: str) -> Mapping[str, Target]:
        """See ``AdbcWarehouse``."""
        cursor.execute(self._COLUMNS, (table,))
        return {row[0]: Target(*row[1:]) for row in cursor.fetchall()}

    def find(self, existing: Mapping[str, Target], name: str) -> Target | None:
        """See ``AdbcWarehouse``."""
        return existing.get(name)

    def value(self, column: Column, target: Target) -> str:
        """See ``AdbcWarehouse``. PostgreSQL itself turns a double into a numeric of 15 digits."""
        cell = f'"{column.name}"'
        if column.type in AS_TEXT and target.reads_text:
            return f"CAST({cell} AS {target.type})"
        if column.type == "number" and target.name == "numeric":
            return f"CAST(CAST({cell} AS text) AS {target.type})"
        return cell

    def key(self, column: Column, target: Target) -> str:
        """See ``AdbcWarehouse``; by the type's rules (citext, char, date) and the column's collation."""
        # To a shorter text, CAST cuts: keys that differ would seem equal.
        kind = {"varchar": "varchar", "bpchar": "bpchar"}.get(target.name, target.type)
        cell = f"CAST({self.value(column, target)} AS {kind})"
        return f"{cell} COLLATE {target.collation}" if target.collation else cell

    def keeps_double(self, target: Target) -> bool:
        """See ``AdbcWarehouse``."""
        return target.name in FLOATS

    def first_changed(
        self, cursor: Cursor, columns: Iterable[tuple[Column, Target]]
    ) -> Iterable[tuple[Column, Target, int]]:
        """See ``AdbcWarehouse``."""
        checks = [(column, target, changed(column, target)) for column, target in columns]
        checks = [check for check in checks if check[2]]
        if not checks:
            return
        rows = ", ".join(f'min("_row") FILTER (WHERE {condition})' for _, _, condition in checks)
        cursor.execute(f"SELECT {rows} FROM {STAGING}")  # noqa: S608  Identifiers of the contract, types of the catalogue
        for (column, target, _), row in zip(checks, cursor.fetchall()[0], strict=True):
            if row is not None:
                yield column, target, int(row)

    def explain(self, error: Error) -> JobkitError:
        """See ``AdbcWarehouse``."""
        state = error.sqlstate or ""
        text = str(error).rpartition("ERROR:")[2].rpartition("FATAL:")[2].strip().partition("\n")[0]
        text = (text or type(error).__name__)[:300]
        told = f"{text} {error.details}"
        if not state:
            if error.status_code in _OF_THE_DRIVER:
                return DatabaseRefuses(f"the driver of PostgreSQL cannot do this: {text}")
            return DatabaseDown(f"PostgreSQL at {self._shown}: {text}")
        if state.startswith(_BUSY) and not (state == _NOT_IN_STATE and any(one in told for one in _OF_THE_OBJECT)):
            return DatabaseUnavailable(f"PostgreSQL at {self._shown}: {text} (SQLSTATE {state})")
        if state.startswith(_DOWN):
            return DatabaseDown(f"PostgreSQL at {self._shown}: {text} (SQLSTATE {state})")
        if state == _NO_UNIQUE_INDEX:
            return TableMismatch("the table has no unique index on the job's key: make one, or load without a key")
        if state.startswith(_OF_THE_TABLE) or state == _NOT_IN_STATE:
            return TableMismatch(f"the table refuses the rows: {text} (SQLSTATE {state})")
        return DatabaseRefuses(f"PostgreSQL at {self._shown} refuses: {text} (SQLSTATE {state})")
