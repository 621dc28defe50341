"""The clients that the inbox knows. They are told by what they can do, so that none has to be installed."""

import sqlite3
from collections.abc import Callable, Iterable
from inspect import iscoroutinefunction
from typing import Protocol, cast, runtime_checkable

from jobkit.errors import NotOneTransaction
from jobkit.inbox.dialect import POSTGRESQL, SQLITE, Dialect
from jobkit.inbox.transaction import Row, Transaction


def transaction_of(given: object) -> Transaction:
    """The transaction of a SQLAlchemy connection or session, a psycopg 3 or sqlite3 connection, or of their cursors.

    Raises:
        TypeError: it is none of these, or an asynchronous one.
    """
    if isinstance(given, Transaction):
        return given
    if iscoroutinefunction(getattr(given, "commit", None)):
        raise TypeError(
            f"{_name(given)} is asynchronous: run the inbox in its run_sync, or on a synchronous connection"
        )
    if hasattr(given, "fetchall"):  # a cursor, which may build rows of any shape: a new one is made
        given = getattr(given, "connection", given)
    if isinstance(given, _Session):
        given = given.connection()
    if hasattr(given, "exec_driver_sql"):
        return SqlalchemyTransaction(cast("_SqlalchemyConnection", given))
    if isinstance(given, sqlite3.Connection):
        return SqliteTransaction(given)
    if hasattr(given, "pgconn"):
        return PsycopgTransaction(cast("_PsycopgConnection", given))
    raise TypeError(
        f"{_name(given)} is no connection of SQLAlchemy, psycopg 3 or sqlite3: give one, or a jobkit.inbox.Transaction"
    )


class SqliteTransaction:
    """A transaction of Python's ``sqlite3``, in each of its ways to begin one.

    By default it begins one with the first write, which is ours: with BEGIN IMMEDIATE, as a transaction that has begun
    by reading does not wait for another's write, but fails. With ``isolation_level=None`` there is none unless the
    caller has begun it (https://docs.python.org/3/library/sqlite3.html#transaction-control).
    """

    dialect = SQLITE

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def run(self, sql: str, *parameters: str | float) -> list[Row]:
        """See ``Transaction``."""
        cursor = self._connection.cursor()
        cursor.row_factory = None
        try:
            return cursor.execute(sql, parameters).fetchall()
        finally:
            cursor.close()

    def begin(self) -> None:
        """See ``Transaction``."""
        if self._connection.in_transaction:
            return
        # Since 3.12 there is an attribute that says who begins; -1 means that isolation_level does.
        legacy = getattr(self._connection, "autocommit", -1) == -1
        if not legacy or self._connection.isolation_level is None:
            raise NotOneTransaction(
                "the sqlite3 connection commits each statement by itself (autocommit), so a mark could outlive a lost "
                "effect: execute BEGIN IMMEDIATE first, or connect with the default isolation_level"
            )
        self._connection.execute("BEGIN IMMEDIATE")


class PsycopgTransaction:
    """A transaction of psycopg 3."""

    dialect = POSTGRESQL

    def __init__(self, connection: "_PsycopgConnection") -> None:
        self._connection = connection

    def run(self, sql: str, *parameters: str | float) -> list[Row]:
        """See ``Transaction``."""
        with self._connection.cursor(row_factory=_plain_rows) as cursor:
            cursor.execute(sql.replace("?", "%s"), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def begin(self) -> None:
        """See ``Transaction``; psycopg begins with the savepoint, if at all."""


class SqlalchemyTransaction:
    """A transaction of SQLAlchemy, on whichever driver; SQLite through Python's ``sqlite3`` alone."""

    def __init__(self, connection: "_SqlalchemyConnection") -> None:
        self._connection = connection
        known = {dialect.name: dialect for dialect in (POSTGRESQL, SQLITE)}
        if connection.dialect.name not in known:
            raise TypeError(f"the inbox knows PostgreSQL and SQLite, not {connection.dialect.name}")
        self._dialect = known[connection.dialect.name]

    @property
    def dialect(self) -> Dialect:
        """See ``Transaction``."""
        return self._dialect

    def run(self, sql: str, *parameters: str | float) -> list[Row]:
        """See ``Transaction``."""
        match self._connection.dialect.paramstyle:
            case "format" | "pyformat":
                sql = sql.replace("?", "%s")
            case "numeric_dollar":
                first, *others = sql.split("?")
                sql = first + "".join(f"${number}{part}" for number, part in enumerate(others, start=1))
        result = self._connection.exec_driver_sql(sql, parameters or None)
        return [tuple(row) for row in result] if result.returns_rows else []

    def begin(self) -> None:
        """See ``Transaction``; in PostgreSQL SQLAlchemy begins with the savepoint, if at all."""
        if self.dialect is SQLITE:
            self.run("SELECT 1")  # now SQLAlchemy has begun, and so has whatever listens to that
            driver = self._connection.connection.driver_connection
            if not isinstance(driver, sqlite3.Connection):
                raise TypeError(f"the inbox knows SQLite through Python's sqlite3, not through {_name(driver)}")
            SqliteTransaction(driver).begin()


def _name(given: object) -> str:
    return f"{type(given).__module__}.{type(given).__qualname__}"


def _plain_rows(_cursor: object) -> Callable[[Iterable[object]], Row]:
    """Rows as tuples, whatever the connection's own row factory makes."""
    return tuple


# What is used of packages that may not be installed ----------------------------------------------------------------


@runtime_checkable
class _Session(Protocol):
    def get_bind(self) -> object: ...
    def connection(self) -> object: ...


class _SqlalchemyResult(Iterable[Row], Protocol):
    returns_rows: bool


class _SqlalchemyDialect(Protocol):
    name: str
    paramstyle: str


class _PooledConnection(Protocol):
    driver_connection: object


class _SqlalchemyConnection(Protocol):
    dialect: _SqlalchemyDialect

    @property
    def connection(self) -> _PooledConnection: ...
    def exec_driver_sql(self, statement: str, parameters: tuple[str | float, ...] | None) -> _SqlalchemyResult: ...


class _PsycopgCursor(Protocol):
    description: object

    def __enter__(self) -> "_PsycopgCursor": ...
    def __exit__(self, *error: object) -> None: ...
    def execute(self, sql: str, parameters: tuple[str | float, ...] | None) -> object: ...
    def fetchall(self) -> list[Row]: ...


class _PsycopgConnection(Protocol):
    def cursor(self, *, row_factory: Callable[[object], Callable[[Iterable[object]], Row]]) -> _PsycopgCursor: ...
