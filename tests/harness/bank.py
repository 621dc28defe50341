"""One account in a database, reached through each client that the inbox knows: effects that can be counted."""

import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy
from psycopg.rows import dict_row
from sqlalchemy.orm import Session

#: Any: a transaction of any client.
Begin = Callable[[], Iterator[Any]]

#: Seconds that a transaction waits for another's lock: far more than any test needs.
PATIENCE = 20


@dataclass(frozen=True)
class Bank:
    """The account. ``begin`` gives a transaction that commits at the end of its block, and rolls back on an error."""

    kind: str
    transaction: Begin

    @contextmanager
    def begin(self) -> Iterator[Any]:
        yield from self.transaction()

    def execute(self, transaction: Any, sql: str) -> Any:
        """Run a statement, as a handler does in that client."""
        return transaction.execute(sqlalchemy.text(sql) if self.kind.startswith("sqlalchemy") else sql)

    def add(self, transaction: Any, amount: int) -> dict[str, int]:
        """The effect: add to the account. Done twice, it shows."""
        self.execute(transaction, f"UPDATE account SET balance = balance + {amount}")
        return {"added": amount}

    def balance(self) -> int:
        with self.begin() as transaction:
            row = self.execute(transaction, "SELECT balance FROM account").fetchone()
        return int(row["balance"] if isinstance(row, Mapping) else row[0])

    def open_account(self) -> None:
        with self.begin() as transaction:
            self.execute(transaction, "CREATE TABLE account (balance integer)")
            self.execute(transaction, "INSERT INTO account VALUES (0)")


#: Each way to reach SQLite: what begins and who commits differs.
SQLITE_KINDS = [
    "sqlite3",
    "sqlite3 cursor",
    "sqlite3 begun by hand",
    "sqlalchemy sqlite",
    "sqlalchemy sqlite begun by event",
    "sqlalchemy session sqlite",
    *(["sqlite3 autocommit off", "sqlalchemy sqlite autocommit off"] if sys.version_info >= (3, 12) else []),
]
POSTGRESQL_KINDS = [
    "psycopg",
    "psycopg cursor",
    "psycopg transaction",
    "psycopg dict rows",
    "sqlalchemy postgresql",
    "sqlalchemy session postgresql",
]


def sqlite_bank(kind: str, path: Path) -> Bank:
    """An account in an SQLite file, through that client."""

    def plain() -> Iterator[Any]:
        options: dict[str, Any] = {"autocommit": False} if kind.endswith("autocommit off") else {}
        with closing(sqlite3.connect(path, timeout=PATIENCE, **options)) as connection, connection:
            yield connection.cursor() if kind.endswith("cursor") else connection

    def by_hand() -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.rollback()
                raise
            connection.execute("COMMIT")

    if kind.startswith("sqlalchemy"):
        return Bank(kind, _through_sqlalchemy(kind, _sqlite_engine(kind, path)))
    return Bank(kind, by_hand if kind.endswith("by hand") else plain)


def postgresql_bank(kind: str, url: str) -> Bank:
    """An account in PostgreSQL, through that client."""

    def plain() -> Iterator[Any]:
        with psycopg.connect(url) as connection:
            yield connection.cursor() if kind.endswith("cursor") else connection

    def block() -> Iterator[psycopg.Connection]:
        with psycopg.connect(url, autocommit=True) as connection, connection.transaction():
            yield connection

    def dict_rows() -> Iterator[psycopg.Connection[dict[str, Any]]]:
        with psycopg.connect(url, row_factory=dict_row) as connection:
            yield connection

    if kind.startswith("sqlalchemy"):
        engine = sqlalchemy.create_engine(
            url.replace("postgresql://", "postgresql+psycopg://"), poolclass=sqlalchemy.NullPool
        )
        return Bank(kind, _through_sqlalchemy(kind, engine))
    return Bank(kind, {"psycopg transaction": block, "psycopg dict rows": dict_rows}.get(kind, plain))


def _through_sqlalchemy(kind: str, engine: sqlalchemy.Engine) -> Begin:
    def connection() -> Iterator[sqlalchemy.Connection]:
        with engine.begin() as transaction:
            yield transaction

    def session() -> Iterator[Session]:
        with Session(engine) as opened, opened.begin():
            yield opened

    return session if "session" in kind else connection


def _sqlite_engine(kind: str, path: Path) -> sqlalchemy.Engine:
    options: dict[str, Any] = {"timeout": PATIENCE}
    if kind.endswith("autocommit off"):
        options["autocommit"] = False
    engine = sqlalchemy.create_engine(f"sqlite:///{path}", connect_args=options, poolclass=sqlalchemy.NullPool)
    if kind.endswith("begun by event"):
        # The recipe of SQLAlchemy's documentation for sqlite3, "Serializable isolation / Savepoints".
        @sqlalchemy.event.listens_for(engine, "connect")
        def _begin_nothing(connection: sqlite3.Connection, _record: object) -> None:
            connection.isolation_level = None

        @sqlalchemy.event.listens_for(engine, "begin")
        def _begin_immediate(connection: sqlalchemy.Connection) -> None:
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine
