"""Two runs of one effect at a time in an SQLite file, and connections on which no mark is safe."""

import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
import sqlalchemy
from bank import SQLITE_KINDS, Bank, sqlite_bank

from jobkit.errors import NotOneTransaction
from jobkit.inbox import POSTGRESQL, SQLITE, Dialect, Inbox, Outcome

INBOX = Inbox()


@pytest.fixture(params=SQLITE_KINDS)
def bank(request: pytest.FixtureRequest, tmp_path: Path) -> Bank:
    built = sqlite_bank(request.param, tmp_path / "bank.db")
    built.open_account()
    with built.begin() as transaction:
        INBOX.create(transaction)
    return built


@pytest.fixture
def database() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute("CREATE TABLE account (balance integer)")
        connection.execute("INSERT INTO account VALUES (0)")
        INBOX.create(connection)
        yield connection


def add(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE account SET balance = balance + 10")


@pytest.mark.parametrize("fails", [False, True], ids=["commits", "rolls back"])
@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_a_second_run_waits_for_the_first(bank: Bank, tmp_path: Path, journal: str, fails: bool) -> None:
    with closing(sqlite3.connect(tmp_path / "bank.db")) as connection:
        connection.execute(f"PRAGMA journal_mode = {journal}")
    begun, tried = threading.Event(), threading.Event()

    def first() -> Outcome[dict[str, int]]:
        with bank.begin() as transaction:

            def effect() -> dict[str, int]:
                done = bank.add(transaction, 10)
                begun.set()
                assert tried.wait(20)
                if fails:
                    raise sqlite3.DatabaseError("told to fail")
                return done

            return INBOX.once(transaction, "k", effect)

    def second() -> Outcome[dict[str, int]]:
        assert begun.wait(20)
        tried.set()  # from here on the first may commit, while this one asks for the lock
        with bank.begin() as transaction:
            return INBOX.once(transaction, "k", lambda: bank.add(transaction, 10))

    with ThreadPoolExecutor(2) as pool:
        one, two = pool.submit(first), pool.submit(second)
        assert (one.exception(30) is not None) == fails
        assert two.result(30) == Outcome({"added": 10}, repeated=not fails)
    assert bank.balance() == 10


def test_many_runs_at_a_time_have_one_effect(bank: Bank) -> None:
    together = threading.Barrier(6)

    def run(_: int) -> bool:
        together.wait(20)
        with bank.begin() as transaction:
            return INBOX.once(transaction, "k", lambda: bank.add(transaction, 10)).repeated

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(run, range(6))) == [False, True, True, True, True, True]
    assert bank.balance() == 10


def test_workers_that_start_together_make_one_table(tmp_path: Path) -> None:
    bank = sqlite_bank("sqlite3", tmp_path / "new.db")
    together = threading.Barrier(6)

    def start(_: int) -> None:
        together.wait(20)
        with bank.begin() as transaction:
            INBOX.create(transaction)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(start, range(6)))


def test_the_write_lock_is_taken_before_the_effect_reads(database: sqlite3.Connection) -> None:
    database.isolation_level = "DEFERRED"  # Python's default
    said: list[str] = []
    database.set_trace_callback(said.append)
    with database:
        INBOX.once(database, "k", lambda: database.execute("SELECT balance FROM account").fetchone()[0])
    assert said[0] == "BEGIN IMMEDIATE"


def test_a_transaction_that_began_by_reading_fails_rather_than_run_an_effect_twice(tmp_path: Path) -> None:
    bank = sqlite_bank("sqlite3 begun by hand", tmp_path / "bank.db")
    bank.open_account()
    with bank.begin() as transaction:
        INBOX.create(transaction)
    with closing(sqlite3.connect(tmp_path / "bank.db", isolation_level=None)) as reader:
        reader.execute("PRAGMA journal_mode = wal")
        reader.execute("BEGIN")
        assert reader.execute("SELECT balance FROM account").fetchone() == (0,)
        with bank.begin() as transaction:
            INBOX.once(transaction, "k", lambda: bank.add(transaction, 10))
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            INBOX.once(reader, "k", lambda: add(reader))
        reader.execute("ROLLBACK")
    assert bank.balance() == 10


def test_a_sqlite3_connection_that_commits_by_itself_is_refused(database: sqlite3.Connection) -> None:
    with pytest.raises(NotOneTransaction, match="BEGIN IMMEDIATE"):
        INBOX.once(database, "k", lambda: add(database))
    assert INBOX.find(database, "k") is None
    assert database.execute("SELECT balance FROM account").fetchone() == (0,)


def test_a_sqlalchemy_connection_that_commits_by_itself_is_refused(bank: Bank, tmp_path: Path) -> None:
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'bank.db'}", isolation_level="AUTOCOMMIT")
    with engine.begin() as transaction, pytest.raises(NotOneTransaction):
        INBOX.once(transaction, "k", lambda: bank.add(transaction, 10))
    engine.dispose()
    assert bank.balance() == 0


def test_a_mark_whose_effect_never_ended_is_not_taken_for_one(database: sqlite3.Connection) -> None:
    database.execute("INSERT INTO jobkit_inbox (key) VALUES ('k')")
    with pytest.raises(NotOneTransaction, match="nobody knows"):
        INBOX.find(database, "k")


@pytest.mark.parametrize(
    "result", [(1, 2), {1: "a"}, float("nan"), object()], ids=["tuple", "int key", "nan", "object"]
)
def test_a_result_that_a_repeat_could_not_give_back_is_refused_and_nothing_happens(
    database: sqlite3.Connection, result: object
) -> None:
    def effect() -> object:
        add(database)
        return result

    database.execute("BEGIN")
    with pytest.raises((TypeError, ValueError)):
        INBOX.once(database, "k", effect)
    database.execute("COMMIT")
    assert database.execute("SELECT balance FROM account").fetchone() == (0,)
    assert INBOX.find(database, "k") is None


def test_an_empty_key_is_refused(database: sqlite3.Connection) -> None:
    with pytest.raises(ValueError, match="empty key"):
        INBOX.once(database, "", lambda: add(database))


@pytest.mark.parametrize("dialect", [POSTGRESQL, SQLITE], ids=lambda dialect: dialect.name)
def test_the_table_of_the_documentation_is_the_one_that_create_makes(dialect: Dialect) -> None:
    page = (Path(__file__).resolve().parents[3] / "docs/how-to/idempotent-effects.md").read_text()
    assert f"-- {dialect.name}\n{INBOX.definition(dialect)}\n```" in page
    assert dialect.create.replace(" IF NOT EXISTS", "").find(dialect.definition) >= 0


@pytest.mark.parametrize("table", ["", "Jobs", "a.b.c", 'a"b', "1a", "a" * 64])
def test_a_name_that_is_none_is_refused(table: str) -> None:
    with pytest.raises(ValueError, match="must be a name"):
        Inbox(table)


def test_a_client_that_is_not_known_is_named() -> None:
    with pytest.raises(TypeError, match=r"types\.SimpleNamespace is no connection"):
        INBOX.once(SimpleNamespace(), "k", lambda: None)


def test_an_asynchronous_connection_is_refused_by_name() -> None:
    class AsyncConnection:
        async def commit(self) -> None: ...

    with pytest.raises(TypeError, match="AsyncConnection is asynchronous"):
        INBOX.once(AsyncConnection(), "k", lambda: None)


def test_a_client_of_ones_own_is_used_as_it_is(database: sqlite3.Connection) -> None:
    class Own:
        dialect = SQLITE

        def begin(self) -> None:
            database.execute("BEGIN IMMEDIATE")

        def run(self, sql: str, *parameters: str | float) -> list[tuple[object, ...]]:
            return database.execute(sql, parameters).fetchall()

    assert INBOX.once(Own(), "k", lambda: 1) == Outcome(1, repeated=False)
    database.execute("COMMIT")
    assert INBOX.find(Own(), "k") == Outcome(1, repeated=True)
