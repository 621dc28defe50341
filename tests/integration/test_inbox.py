"""The inbox under what happens in production: two runs at a time in PostgreSQL, processes that are killed."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import psycopg.rows
import pytest
import sqlalchemy
from bank import Bank, postgresql_bank, sqlite_bank
from credit_service import Credit
from worker_process import WorkerProcess

from jobkit.errors import NotOneTransaction
from jobkit.inbox import Inbox, Outcome
from jobkit.producer import Producer
from jobkit.store.base import JobKey, JobState
from jobkit.store.redis import RedisStore

HARNESS = Path(__file__).resolve().parents[1] / "harness"
INBOX = Inbox()
KEY = "credit/1"
LEVELS = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]


@pytest.fixture(params=["psycopg", "sqlalchemy postgresql"])
def bank(request: pytest.FixtureRequest, postgres_schema: str) -> Bank:
    built = postgresql_bank(request.param, postgres_schema)
    built.open_account()
    with built.begin() as transaction:
        INBOX.create(transaction)
    return built


@pytest.fixture
def observer(postgres_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        yield connection


def credit(bank: Bank, level: str = "READ COMMITTED") -> Outcome[dict[str, int]]:
    with bank.begin() as transaction:
        bank.execute(transaction, f"SET TRANSACTION ISOLATION LEVEL {level}")
        return INBOX.once(transaction, KEY, lambda: bank.add(transaction, 10))


def both(
    bank: Bank, observer: psycopg.Connection, level: str, end: Callable[[], None] = lambda: None
) -> tuple[Future[Any], Future[Any]]:
    """Two runs at a time: the second begins in the middle of the first one's effect, which ends when it waits."""
    begun, waiting = threading.Event(), threading.Event()

    def first() -> Outcome[dict[str, int]]:
        with bank.begin() as transaction:

            def effect() -> dict[str, int]:
                done = bank.add(transaction, 10)
                begun.set()
                assert waiting.wait(20)
                end()
                return done

            return INBOX.once(transaction, KEY, effect)

    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(first)
        assert begun.wait(20)
        two = pool.submit(credit, bank, level)
        wait_until_one_waits(observer)
        assert not two.done()
        waiting.set()
        return one, two


def wait_until_one_waits(observer: psycopg.Connection, limit: float = 20) -> None:
    deadline = time.monotonic() + limit
    question = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'INSERT%inbox%'"
    while observer.execute(question).fetchone() != (1,):
        assert time.monotonic() < deadline, "nobody waits for the mark"
        time.sleep(0.01)


def test_a_second_run_waits_and_is_answered(bank: Bank, observer: psycopg.Connection) -> None:
    one, two = both(bank, observer, "READ COMMITTED")
    assert one.result() == Outcome({"added": 10}, repeated=False)
    assert two.result() == Outcome({"added": 10}, repeated=True)
    assert bank.balance() == 10


@pytest.mark.parametrize("level", LEVELS)
def test_a_second_run_goes_on_when_the_first_rolls_back(bank: Bank, observer: psycopg.Connection, level: str) -> None:
    class Failed(Exception): ...

    def fail() -> None:
        raise Failed

    one, two = both(bank, observer, level, fail)
    assert isinstance(one.exception(), Failed)
    assert two.result() == Outcome({"added": 10}, repeated=False)
    assert bank.balance() == 10


@pytest.mark.parametrize("level", LEVELS[1:])
def test_above_read_committed_a_second_run_fails_and_is_answered_when_it_is_tried_again(
    bank: Bank, observer: psycopg.Connection, level: str
) -> None:
    _, two = both(bank, observer, level)
    error = two.exception()
    assert getattr(getattr(error, "orig", error), "sqlstate", None) == "40001", error
    assert credit(bank, level) == Outcome({"added": 10}, repeated=True)
    assert bank.balance() == 10


@pytest.mark.parametrize("level", LEVELS[1:])
def test_a_snapshot_from_before_the_mark_does_not_make_the_effect_happen_again(bank: Bank, level: str) -> None:
    def run() -> None:
        with bank.begin() as transaction:
            bank.execute(transaction, f"SET TRANSACTION ISOLATION LEVEL {level}")
            bank.execute(transaction, "SELECT balance FROM account").fetchone()
            credit(bank)
            INBOX.once(transaction, KEY, lambda: bank.add(transaction, 10))

    with pytest.raises((psycopg.errors.SerializationFailure, sqlalchemy.exc.OperationalError)):
        run()
    assert bank.balance() == 10


def test_a_mark_that_is_forgotten_while_another_run_asks_for_it_is_set_anew(postgres_schema: str) -> None:
    bank = postgresql_bank("sqlalchemy postgresql", postgres_schema)
    bank.open_account()
    with bank.begin() as transaction:
        INBOX.create(transaction)
    credit(bank)
    with bank.begin() as transaction:

        @sqlalchemy.event.listens_for(transaction, "before_cursor_execute")
        def forget(*said: Any) -> None:
            if said[2].startswith("SELECT result"):
                with bank.begin() as other:
                    INBOX.forget(other, older_than=timedelta(microseconds=1))

        assert not INBOX.once(transaction, KEY, lambda: bank.add(transaction, 10)).repeated
    assert bank.balance() == 20


def test_connections_that_commit_by_themselves_are_refused(postgres_schema: str, bank: Bank) -> None:
    engine = sqlalchemy.create_engine(
        postgres_schema.replace("postgresql://", "postgresql+psycopg://"), isolation_level="AUTOCOMMIT"
    )
    with psycopg.connect(postgres_schema, autocommit=True) as plain, engine.begin() as alchemy:
        for connection in (plain, plain.cursor(), alchemy):
            with pytest.raises(NotOneTransaction, match="autocommit"):
                INBOX.once(connection, KEY, lambda: bank.add(connection, 10))  # noqa: B023  called at once
            assert INBOX.find(connection, KEY) is None
    engine.dispose()
    assert bank.balance() == 0


def test_an_asynchronous_connection_is_refused() -> None:
    connection = psycopg.AsyncConnection.__new__(psycopg.AsyncConnection)
    with pytest.raises(TypeError, match="asynchronous"):
        INBOX.find(connection, KEY)


def test_workers_that_start_together_make_one_table(postgres_schema: str) -> None:
    together = threading.Barrier(6)

    def start(number: int) -> None:
        with psycopg.connect(postgres_schema, autocommit=number % 2 == 0) as connection:
            together.wait(20)
            INBOX.create(connection)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(start, range(6)))


def test_who_may_not_make_tables_uses_the_one_that_is_there(postgres_schema: str, bank: Bank) -> None:
    with psycopg.connect(postgres_schema) as connection:
        connection.execute("CREATE ROLE teller")
        connection.execute("GRANT SELECT, INSERT, UPDATE ON jobkit_inbox, account TO teller")
        schema = connection.execute("SELECT current_schema()").fetchone()
        connection.execute(f"GRANT USAGE ON SCHEMA {schema[0]} TO teller")  # type: ignore[index]  # there is a row
        connection.execute("SET ROLE teller")
        INBOX.create(connection)
        assert not INBOX.once(connection, KEY, lambda: None).repeated
        connection.rollback()


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("kind", ["sqlite3", "psycopg", "sqlalchemy postgresql"])
def test_a_process_killed_around_its_commit_leaves_the_effect_to_be_had_once(
    kind: str, moment: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if kind == "sqlite3":
        address = str(tmp_path / "bank.db")
        bank = sqlite_bank(kind, Path(address))
    else:
        address = request.getfixturevalue("postgres_schema")
        bank = postgresql_bank(kind, address)
    bank.open_account()
    with bank.begin() as transaction:
        INBOX.create(transaction)
    command = [sys.executable, str(HARNESS / "bank_teller.py"), kind, address, moment]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as teller:
        assert teller.stdout is not None
        said = teller.stdout.readline()
        teller.kill()
    assert said == f"{moment}\n"
    with bank.begin() as transaction:
        again = INBOX.once(transaction, KEY, lambda: bank.add(transaction, 10))
    assert again == Outcome({"added": 10}, repeated=moment == "after")
    assert bank.balance() == 10


def test_a_worker_killed_between_effect_and_record_has_the_effect_twice_without_the_inbox_and_once_with_it(
    tmp_path: Path, vhost_url: str, redis_url: str, postgres_schema: str
) -> None:
    environment = {
        "JOBKIT_BROKER_URL": vhost_url,
        "JOBKIT_STORE_URL": redis_url,
        "JOBKIT_LEASE_SECONDS": "2",
        "JOBKIT_STORE_TIMEOUT_SECONDS": "0.3",
        "CREDIT_DATABASE": postgres_schema,
        "CREDIT_LEDGER": str(tmp_path / "ledger"),
    }
    with psycopg.connect(postgres_schema) as connection:
        connection.execute("CREATE TABLE effects (name text)")
    worker = WorkerProcess(tmp_path, environment, module="credit_service", threads=2)
    with Producer(vhost_url) as producer, worker:
        receipts = {name: producer.send(Credit(name=name, inbox=name == "inbox")) for name in ("bare", "inbox")}
        worker.ledger.wait_for("committed", *receipts)
        worker.kill()
        worker.start()
        worker.ledger.wait_for("end", *receipts)
        store = RedisStore(redis_url)
        key = JobKey.of(Credit.queue, Credit.actor, receipts["inbox"].job_id)
        worker.ledger.wait(lambda _: (found := store.record(key)) is not None and found.state is JobState.DONE)
        record = store.record(key)
        store.close()
    with psycopg.connect(postgres_schema) as connection:
        effects = [name for (name,) in connection.execute("SELECT name FROM effects ORDER BY name")]
    assert effects == ["bare", "bare", "inbox"]
    assert record is not None
    first = next(entry for entry in worker.ledger.entries("committed") if entry.name == "inbox")
    assert json.loads(record.result) == {"done_by": first.pid, "repeated": True}, "the job has the first run's result"
