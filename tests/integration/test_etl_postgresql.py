import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from pathlib import Path

import psycopg
import pyarrow as pa  # type: ignore[import-untyped]  # ships no types
import pyarrow.parquet as pq  # type: ignore[import-untyped]  # ships no types
import pytest

from etl_service.adapters.postgresql import PostgresqlWarehouse
from etl_service.adapters.warehouse import Outcome
from etl_service.casting import schema
from etl_service.errors import DatabaseUnavailable, TableMismatch
from jobkit.contracts.etl import Column, LoadTable

COLUMNS = (
    Column(name="id", type="integer", required=True),
    Column(name="name", type="text"),
    Column(name="amount", type="number"),
    Column(name="paid", type="boolean"),
    Column(name="day", type="date"),
    Column(name="seen", type="timestamp"),
)
MOMENT = datetime(2026, 10, 1, 8, 30, 0, 5, tzinfo=UTC)


def job(**changes: object) -> LoadTable:
    return LoadTable.model_validate(
        {"run_id": "r", "rows": "rows", "table": "people", "columns": COLUMNS, "key": ()} | changes
    )


def ignore(_percent: float) -> None: ...


def rows_file(folder: Path, *rows: tuple[object, ...]) -> Path:
    columns = [list(column) for column in zip(*rows, strict=True)]
    pq.write_table(pa.table([range(1, len(rows) + 1), *columns], schema=schema(COLUMNS)), folder / "rows.parquet")
    return folder / "rows.parquet"


def row(number: int, name: str | None = "x") -> tuple[object, ...]:
    return (number, name, 0.1, True, date(2026, 10, 1), MOMENT)


@pytest.fixture
def database(postgres_schema: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(postgres_schema, autocommit=True) as connection:
        yield connection


@pytest.fixture
def warehouse(postgres_schema: str) -> PostgresqlWarehouse:
    return PostgresqlWarehouse(postgres_schema, timeout=10)


def test_every_type_arrives_as_it_was_sent(
    warehouse: PostgresqlWarehouse, database: psycopg.Connection, tmp_path: Path
) -> None:
    empty = (2, None, None, None, None, None)
    assert warehouse.load("m", job(), rows_file(tmp_path, row(1, "ü"), empty), progress=ignore) == Outcome(2, 0)
    assert database.execute("SELECT * FROM people ORDER BY id").fetchall() == [row(1, "ü"), empty]


def test_two_loads_with_one_mark_at_a_time_load_once_in_postgresql(
    warehouse: PostgresqlWarehouse, database: psycopg.Connection, tmp_path: Path
) -> None:
    rows = rows_file(tmp_path, *(row(n) for n in range(5000)))
    together = threading.Barrier(4)

    def load(_: int) -> Outcome:
        together.wait()
        return warehouse.load("m", job(), rows, progress=ignore)

    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(load, range(4)))
    assert sorted(outcome.already_loaded for outcome in outcomes) == [False, True, True, True]
    assert {outcome.rows_loaded for outcome in outcomes} == {5000}
    assert database.execute("SELECT count(*) FROM people").fetchone() == (5000,)
    assert database.execute("SELECT key FROM jobkit_inbox").fetchall() == [("m",)]


def test_different_loads_into_a_new_table_at_a_time_all_arrive(
    warehouse: PostgresqlWarehouse, database: psycopg.Connection, tmp_path: Path
) -> None:
    rows = rows_file(tmp_path, row(1))
    together = threading.Barrier(4)

    def load(number: int) -> Outcome:
        together.wait()
        return warehouse.load(f"m{number}", job(), rows, progress=ignore)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(load, range(4))) == [Outcome(1, 0)] * 4
    assert database.execute("SELECT count(*) FROM people").fetchone() == (4,)


def test_a_load_that_stops_half_way_leaves_neither_rows_nor_mark_in_postgresql(
    warehouse: PostgresqlWarehouse, database: psycopg.Connection, tmp_path: Path
) -> None:
    class Stopped(BaseException): ...

    def stop(_percent: float) -> None:
        raise Stopped

    rows = rows_file(tmp_path, row(1))
    with pytest.raises(Stopped):
        warehouse.load("m", job(), rows, progress=stop)
    assert database.execute("SELECT to_regclass('people'), to_regclass('jobkit_inbox')").fetchone() == (None, None)
    assert warehouse.load("m", job(), rows, progress=ignore) == Outcome(1, 0)


def test_with_a_key_rows_are_replaced_in_postgresql(
    warehouse: PostgresqlWarehouse, database: psycopg.Connection, tmp_path: Path
) -> None:
    keyed = job(key=("id",))
    warehouse.load("m1", keyed, rows_file(tmp_path, row(1, "old"), row(2, "kept")), progress=ignore)
    outcome = warehouse.load("m2", keyed, rows_file(tmp_path, row(1, "new"), row(1, "newest")), progress=ignore)
    assert outcome == Outcome(rows_loaded=1, rows_superseded=1)
    assert database.execute("SELECT id, name FROM people ORDER BY id").fetchall() == [(1, "newest"), (2, "kept")]


def test_an_existing_table_with_narrower_types_takes_what_fits(
    warehouse: PostgresqlWarehouse, database: psycopg.Connection, tmp_path: Path
) -> None:
    database.execute(
        "CREATE TABLE people (extra serial, id integer, name varchar(3), amount numeric, "
        "paid bool, day date, seen timestamp)"
    )
    warehouse.load("m1", job(), rows_file(tmp_path, row(1, "abc")), progress=ignore)
    assert database.execute("SELECT id, name, seen FROM people").fetchall() == [(1, "abc", MOMENT.replace(tzinfo=None))]
    with pytest.raises(TableMismatch, match="value too long"):
        warehouse.load("m2", job(), rows_file(tmp_path, row(1, "abcd")), progress=ignore)
    with pytest.raises(TableMismatch, match="out of range"):
        warehouse.load("m3", job(), rows_file(tmp_path, row(2**40)), progress=ignore)


def test_a_key_without_a_unique_index_is_permanent_in_postgresql(
    warehouse: PostgresqlWarehouse, database: psycopg.Connection, tmp_path: Path
) -> None:
    warehouse.load("m1", job(), rows_file(tmp_path, row(1)), progress=ignore)
    with pytest.raises(TableMismatch, match="no unique index"):
        warehouse.load("m2", job(key=("id",)), rows_file(tmp_path, row(1)), progress=ignore)


def test_an_existing_table_without_the_columns_is_permanent_in_postgresql(
    warehouse: PostgresqlWarehouse, database: psycopg.Connection, tmp_path: Path
) -> None:
    database.execute("CREATE TABLE people (id integer)")
    with pytest.raises(TableMismatch, match="without the columns name, amount, paid, day, seen"):
        warehouse.load("m", job(), rows_file(tmp_path, row(1)), progress=ignore)


def test_a_table_locked_for_too_long_is_transient(
    postgres_schema: str, warehouse: PostgresqlWarehouse, database: psycopg.Connection, tmp_path: Path
) -> None:
    rows = rows_file(tmp_path, row(1))
    warehouse.load("m1", job(), rows, progress=ignore)
    hasty = PostgresqlWarehouse(postgres_schema, timeout=0.1)
    with database.transaction():
        database.execute("LOCK TABLE people")
        with pytest.raises(DatabaseUnavailable, match="lock timeout"):
            hasty.load("m2", job(), rows, progress=ignore)
    assert hasty.load("m2", job(), rows, progress=ignore) == Outcome(1, 0)
