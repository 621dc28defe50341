import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]  # ships no types
import pyarrow.parquet as pq  # type: ignore[import-untyped]  # ships no types
import pytest

from etl_service.adapters.sqlite import SqliteWarehouse
from etl_service.adapters.warehouse import Outcome
from etl_service.casting import schema
from etl_service.errors import DatabaseRefuses, DatabaseUnavailable, TableMismatch
from jobkit.contracts.etl import Column, LoadTable
from jobkit.errors import SettingsError

COLUMNS = (Column(name="id", type="integer", required=True), Column(name="name", type="text"))

HOLD_THE_LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""


def job(**changes: object) -> LoadTable:
    return LoadTable.model_validate(
        {"run_id": "r", "rows": "rows", "table": "people", "columns": COLUMNS, "key": ()} | changes
    )


def ignore(_percent: float) -> None: ...


def rows_file(folder: Path, *rows: tuple[int, str | None]) -> Path:
    table = pa.table(
        [range(1, len(rows) + 1), [row[0] for row in rows], [row[1] for row in rows]], schema=schema(COLUMNS)
    )
    pq.write_table(table, folder / "rows.parquet")
    return folder / "rows.parquet"


def query(path: Path, sql: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path)
    try:
        found = connection.execute(sql).fetchall()
        connection.commit()
        return found
    finally:
        connection.close()


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "etl.db"


@pytest.fixture
def warehouse(database: Path) -> SqliteWarehouse:
    return SqliteWarehouse.at(database, timeout=10)


def test_two_loads_with_one_mark_at_a_time_load_once(
    warehouse: SqliteWarehouse, database: Path, tmp_path: Path
) -> None:
    rows = rows_file(tmp_path, *((n, "x") for n in range(5000)))
    together = threading.Barrier(4)

    def load(_: int) -> Outcome:
        together.wait()
        return warehouse.load("m", job(), rows, progress=ignore)

    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(load, range(4)))
    assert sorted(outcome.already_loaded for outcome in outcomes) == [False, True, True, True]
    assert {outcome.rows_loaded for outcome in outcomes} == {5000}
    assert query(database, "SELECT count(*) FROM people") == [(5000,)]
    assert query(database, "SELECT key FROM jobkit_inbox") == [("m",)]


def test_a_load_that_fails_half_way_leaves_neither_rows_nor_mark(
    warehouse: SqliteWarehouse, database: Path, tmp_path: Path
) -> None:
    rows = rows_file(tmp_path, (1, "a"), (2, "b"))

    class Stopped(BaseException): ...

    def stop(_percent: float) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        warehouse.load("m", job(), rows, progress=stop)
    assert query(database, "SELECT name FROM sqlite_master") == []
    assert warehouse.load("m", job(), rows, progress=ignore) == Outcome(2, 0)


def test_different_marks_append(warehouse: SqliteWarehouse, database: Path, tmp_path: Path) -> None:
    rows = rows_file(tmp_path, (1, "a"))
    warehouse.load("m1", job(), rows, progress=ignore)
    warehouse.load("m2", job(), rows, progress=ignore)
    assert query(database, "SELECT * FROM people") == [(1, "a"), (1, "a")]


def test_with_a_key_a_row_replaces_its_predecessor_and_the_later_of_two_stays(
    warehouse: SqliteWarehouse, database: Path, tmp_path: Path
) -> None:
    keyed = job(key=("id",))
    warehouse.load("m1", keyed, rows_file(tmp_path, (1, "old"), (2, "kept")), progress=ignore)
    outcome = warehouse.load("m2", keyed, rows_file(tmp_path, (1, "new"), (3, "x"), (1, "newest")), progress=ignore)
    assert outcome == Outcome(rows_loaded=2, rows_superseded=1)
    assert query(database, "SELECT * FROM people ORDER BY id") == [(1, "newest"), (2, "kept"), (3, "x")]


def test_a_key_of_all_columns_keeps_each_row_once(warehouse: SqliteWarehouse, database: Path, tmp_path: Path) -> None:
    keyed = job(key=("id", "name"))
    for mark in ("m1", "m2"):
        warehouse.load(mark, keyed, rows_file(tmp_path, (1, "a"), (2, "b")), progress=ignore)
    assert query(database, "SELECT count(*) FROM people") == [(2,)]


def test_replace_empties_the_table_first(warehouse: SqliteWarehouse, database: Path, tmp_path: Path) -> None:
    warehouse.load("m1", job(), rows_file(tmp_path, (1, "old"), (2, "old")), progress=ignore)
    warehouse.load("m2", job(mode="replace"), rows_file(tmp_path, (3, "new")), progress=ignore)
    assert query(database, "SELECT * FROM people") == [(3, "new")]


def test_an_existing_table_without_the_columns_is_permanent(
    warehouse: SqliteWarehouse, database: Path, tmp_path: Path
) -> None:
    query(database, "CREATE TABLE people (id INTEGER, other TEXT)")
    with pytest.raises(TableMismatch, match="'people' exists without the columns name"):
        warehouse.load("m", job(), rows_file(tmp_path, (1, "a")), progress=ignore)
    assert warehouse.outcome("m") is None


def test_an_existing_table_that_refuses_the_rows_is_permanent(
    warehouse: SqliteWarehouse, database: Path, tmp_path: Path
) -> None:
    query(database, "CREATE TABLE people (id INTEGER, name TEXT NOT NULL)")
    with pytest.raises(TableMismatch, match=r"NOT NULL constraint failed: people\.name"):
        warehouse.load("m", job(), rows_file(tmp_path, (1, None)), progress=ignore)


def test_a_key_without_a_unique_index_is_permanent(warehouse: SqliteWarehouse, database: Path, tmp_path: Path) -> None:
    query(database, "CREATE TABLE people (id INTEGER, name TEXT)")
    with pytest.raises(TableMismatch, match="no unique index"):
        warehouse.load("m", job(key=("id",)), rows_file(tmp_path, (1, "a")), progress=ignore)


def test_a_database_locked_by_another_process_is_transient(database: Path, tmp_path: Path) -> None:
    warehouse = SqliteWarehouse.at(database, timeout=0.05)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD_THE_LOCK, str(database)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(DatabaseUnavailable, match="database is locked"):
            warehouse.load("m", job(), rows_file(tmp_path, (1, "a")), progress=ignore)
        holder.communicate()
    assert warehouse.load("m", job(), rows_file(tmp_path, (1, "a")), progress=ignore) == Outcome(1, 0)


def test_a_file_that_is_no_database_is_named(database: Path, tmp_path: Path) -> None:
    database.write_bytes(b"no database at all, " * 100)
    with pytest.raises(DatabaseRefuses, match=r"etl\.db: file is not a database"):
        SqliteWarehouse.at(database, timeout=1).outcome("m")


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"ETL_DATABASE_URL: .* cannot be written"):
        SqliteWarehouse.at(tmp_path / "file" / "etl.db", timeout=1)


# Values that would change on the way ------------------------------------------------------------------------


def load_one(warehouse: SqliteWarehouse, folder: Path, kind: str, value: object, **changes: object) -> Outcome:
    """Load one value into the column ``a`` of the table ``narrow``."""
    columns = (Column.model_validate({"name": "a", "type": kind}),)
    pq.write_table(pa.table([[1], [value]], schema=schema(columns)), folder / "one.parquet")
    one = job(**{"table": "narrow", "columns": columns} | changes)
    return warehouse.load("one", one, folder / "one.parquet", progress=ignore)


FITS = [
    ("text", "00501", "TEXT", "00501"),
    ("text", "00501", "", "00501"),
    ("text", "00501", "varchar(3)", "00501"),
    ("text", "501", "INTEGER", 501),
    ("text", "A17", "INTEGER", "A17"),
    ("integer", 2**53 + 1, "NUMERIC", 2**53 + 1),
    ("integer", 5, "REAL", 5.0),
    ("integer", 5, "TEXT", "5"),
    ("number", 2.5, "INTEGER", 2.5),
    ("number", 2.0, "INTEGER", 2),
    ("number", 0.1 + 0.2, "TEXT", "0.30000000000000004"),
    ("boolean", True, "NUMERIC", 1),
    ("decimal(20, 4)", Decimal("12345678901234.5600"), "TEXT", "12345678901234.5600"),
    ("decimal(20, 4)", Decimal("12.5000"), "DECIMAL(20, 4)", 12.5),
    ("decimal(20, 4)", Decimal("12.0000"), "REAL", 12.0),
    ("decimal(20, 0)", Decimal(100), "NUMERIC", 100),
    ("date", date(2026, 10, 1), "DATE", "2026-10-01"),
    ("timestamp", datetime(2026, 10, 1, 8, 30, tzinfo=UTC), "TIMESTAMP", "2026-10-01T08:30:00.000000"),
    ("uuid", "550e8400-e29b-41d4-a716-446655440000", "uuid", "550e8400-e29b-41d4-a716-446655440000"),
    ("json", "[1.10]", "json", "[1.10]"),
]


@pytest.mark.parametrize(("kind", "value", "target", "found"), FITS)
def test_a_value_that_fits_arrives_in_a_column_of_another_affinity(
    warehouse: SqliteWarehouse, database: Path, tmp_path: Path, kind: str, value: object, target: str, found: object
) -> None:
    query(database, f"CREATE TABLE narrow (a {target})")
    assert load_one(warehouse, tmp_path, kind, value) == Outcome(1, 0)
    assert query(database, "SELECT a FROM narrow") == [(found,)]


@pytest.mark.parametrize(
    ("kind", "value", "target"),
    [
        ("text", "00501", "INTEGER"),
        ("text", "00501", "NUMERIC"),
        ("text", "1e3", "REAL"),
        ("text", "1.10", "DECIMAL"),
        ("text", "12345678901234567890", "NUMERIC"),
        ("integer", 2**53 + 1, "REAL"),
        ("decimal(20, 4)", Decimal("1234567890123456.7801"), "NUMERIC"),
        ("json", "1.10", "NUMERIC"),
    ],
)
def test_a_value_that_would_change_in_the_column_is_refused(
    warehouse: SqliteWarehouse, database: Path, tmp_path: Path, kind: str, value: object, target: str
) -> None:
    query(database, f"CREATE TABLE narrow (a {target}, b TEXT)")
    query(database, "INSERT INTO narrow VALUES (NULL, 'kept')")
    with pytest.raises(TableMismatch, match=r"column 'a' of table 'narrow' is .* in row 1 would change"):
        load_one(warehouse, tmp_path, kind, value, mode="replace")
    assert query(database, "SELECT b FROM narrow") == [("kept",)]


def test_keys_that_are_equal_by_the_collation_of_the_table_are_superseded(
    warehouse: SqliteWarehouse, database: Path, tmp_path: Path
) -> None:
    query(database, "CREATE TABLE narrow (a TEXT COLLATE NOCASE PRIMARY KEY)")
    columns = (Column(name="a", type="text"),)
    pq.write_table(pa.table([[1, 2], ["Ada", "ADA"]], schema=schema(columns)), tmp_path / "two.parquet")
    keyed = job(table="narrow", columns=columns, key=("a",))
    outcome = warehouse.load("m", keyed, tmp_path / "two.parquet", progress=ignore)
    assert outcome == Outcome(rows_loaded=1, rows_superseded=1)


def test_names_have_no_case(warehouse: SqliteWarehouse, database: Path, tmp_path: Path) -> None:
    query(database, 'CREATE TABLE Narrow (A INTEGER, "Order" TEXT)')
    assert load_one(warehouse, tmp_path, "integer", 5) == Outcome(1, 0)
    assert query(database, "SELECT A FROM Narrow") == [(5,)]
    with pytest.raises(TableMismatch, match=r"without the columns b \(it has a, order\)"):
        warehouse.load("m", job(table="narrow", columns=(Column(name="b", type="text"),)), tmp_path, progress=ignore)
