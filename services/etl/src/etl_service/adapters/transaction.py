"""The inbox's way into an ADBC transaction."""

from adbc_driver_manager.dbapi import Cursor

from jobkit.inbox import Dialect


class AdbcTransaction:
    """A ``jobkit.inbox.Transaction`` over a cursor in whose connection a transaction is open.

    The warehouse has opened it: in PostgreSQL by switching autocommit off, in SQLite by its own BEGIN IMMEDIATE.
    """

    def __init__(self, cursor: Cursor, dialect: Dialect) -> None:
        self._cursor = cursor
        self.dialect = dialect

    def begin(self) -> None:
        """See ``jobkit.inbox.Transaction``; it has begun."""

    def run(self, sql: str, *parameters: str | float) -> list[tuple[object, ...]]:
        """See ``jobkit.inbox.Transaction``; ADBC hands ``$1`` on to either database."""
        first, *others = sql.split("?")
        numbered = first + "".join(f"${number}{part}" for number, part in enumerate(others, start=1))
        self._cursor.execute(numbered, parameters or None)
        return list(self._cursor.fetchall()) if self._cursor.description else []
