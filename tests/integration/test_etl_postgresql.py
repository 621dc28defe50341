import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from uuid import UUID, uuid4

import polars as pl
import psycopg
import pyarrow as pa  # type: ignore[import-untyped]  # ships no types
import pyarrow.parquet as pq  # type: ignore[import-untyped]  # ships no types
import pytest

from etl_service.adapters.postgresql import PostgresqlWarehouse
from etl_service.adapters.warehouse import Outcome
from etl_service.casting import cast, schema
from etl_service.errors import DatabaseDown, DatabaseUnavailable, TableMismatch
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


# Values that would change on the way ------------------------------------------------------------------------

KINDS: dict[str, tuple[str, object]] = {
    "text": ("text", "00501"),
    "word": ("text", "abc  "),
    "digits": ("text", "12345678901234567.89"),
    "json": ("json", '{"a": 1.10}'),
    "uuid": ("uuid", "550e8400-e29b-41d4-a716-446655440000"),
    "integer": ("integer", 9007199254740993),
    "small": ("integer", 7),
    "number": ("number", 123456789012345.67),
    "half": ("number", 2.5),
    "two": ("number", 2.0),
    "decimal": ("decimal(20, 4)", Decimal("1234567890123456.7800")),
    "time": ("timestamp", MOMENT),
    "midnight": ("timestamp", MOMENT.replace(hour=0, minute=0, microsecond=0)),
    "date": ("date", date(2026, 10, 1)),
}


def load_one(warehouse: PostgresqlWarehouse, folder: Path, kind: str, **changes: object) -> Outcome:
    """Load one value into the column ``a`` of the table ``narrow``."""
    declared, value = KINDS[kind]
    columns = (Column.model_validate({"name": "a", "type": declared}),)
    pq.write_table(pa.table([[1], [value]], schema=schema(columns)), folder / "one.parquet")
    one = job(**{"table": "narrow", "columns": columns} | changes)
    return warehouse.load("one", one, folder / "one.parquet", progress=ignore)


@pytest.mark.parametrize(
    ("kind", "target", "found"),
    [
        ("digits", "numeric(24, 4)", Decimal("12345678901234567.8900")),
        ("digits", "numeric", Decimal("12345678901234567.89")),
        ("text", "integer", 501),
        ("text", "citext", "00501"),
        ("text", "postcode", "00501"),
        ("word", "varchar(5)", "abc  "),
        ("word", "mood", None),
        ("json", "jsonb", {"a": 1.1}),
        ("json", "json", {"a": 1.1}),
        ("json", "text", '{"a": 1.10}'),
        ("uuid", "uuid", UUID("550e8400-e29b-41d4-a716-446655440000")),
        ("uuid", "text", "550e8400-e29b-41d4-a716-446655440000"),
        ("integer", "numeric", Decimal(9007199254740993)),
        ("integer", "text", "9007199254740993"),
        ("small", "real", 7.0),
        ("number", "numeric(24, 4)", Decimal("123456789012345.6700")),
        ("half", "real", 2.5),
        ("two", "smallint", 2),
        ("decimal", "numeric(30, 2)", Decimal("1234567890123456.78")),
        ("decimal", "text", "1234567890123456.7800"),
        ("time", "timestamp", MOMENT.replace(tzinfo=None)),
        ("time", "text", "2026-10-01 08:30:00.000005+00"),
        ("midnight", "date", date(2026, 10, 1)),
        ("date", "timestamptz", datetime(2026, 10, 1, tzinfo=UTC)),
    ],
)
def test_a_value_that_fits_arrives_in_a_column_of_another_type(
    warehouse: PostgresqlWarehouse,
    database: psycopg.Connection,
    tmp_path: Path,
    kind: str,
    target: str,
    found: object,
) -> None:
    database.execute("CREATE EXTENSION IF NOT EXISTS citext SCHEMA public")
    database.execute("CREATE DOMAIN postcode AS text CHECK (length(VALUE) = 5)")
    database.execute("CREATE TYPE mood AS ENUM ('abc', 'abc  ')")
    target = "public.citext" if target == "citext" else target
    database.execute(f"CREATE TABLE narrow (a {target})")
    assert load_one(warehouse, tmp_path, kind) == Outcome(1, 0)
    row = database.execute("SELECT a FROM narrow").fetchone()
    assert row == (found if target != "mood" else "abc  ",)


@pytest.mark.parametrize(
    ("kind", "target", "message"),
    [
        ("digits", "numeric(24, 1)", "would change"),
        ("digits", "double precision", "would change"),
        ("digits", "money", "42804"),
        ("text", "date", "42804"),
        ("text", "uuid", "22P02"),
        ("text", "bytea", "42804"),
        ("word", "integer", "22P02"),
        ("word", "varchar(4)", "would change"),
        ("word", "mood", "22P02"),
        ("integer", "double precision", "would change"),
        ("integer", "real", "would change"),
        ("integer", "integer", "22003"),
        ("integer", "boolean", "42804"),
        ("half", "integer", "would change"),
        ("number", "numeric(24, 1)", "would change"),
        ("number", "real", "would change"),
        ("decimal", "bigint", "would change"),
        ("decimal", "numeric(20, 1)", "would change"),
        ("decimal", "double precision", "would change"),
        ("time", "date", "would change"),
        ("time", "time", "would change"),
        ("time", "timestamptz(3)", "would change"),
        ("date", "time", "42804"),
    ],
)
def test_a_value_that_would_change_in_the_column_is_refused_and_the_table_keeps_what_it_had(
    warehouse: PostgresqlWarehouse,
    database: psycopg.Connection,
    tmp_path: Path,
    kind: str,
    target: str,
    message: str,
) -> None:
    database.execute("CREATE TYPE mood AS ENUM ('abc')")
    database.execute(f"CREATE TABLE narrow (a {target}, b text)")
    database.execute("INSERT INTO narrow VALUES (NULL, 'kept')")
    with pytest.raises(TableMismatch, match=message):
        load_one(warehouse, tmp_path, kind, mode="replace")
    assert database.execute("SELECT b FROM narrow").fetchall() == [("kept",)]


def test_every_new_type_arrives_in_a_table_that_the_service_makes(
    warehouse: PostgresqlWarehouse, database: psycopg.Connection, tmp_path: Path
) -> None:
    for kind in ("json", "uuid", "decimal"):
        load_one(warehouse, tmp_path, kind, table=kind)
        database.execute("DELETE FROM jobkit_inbox")
    types = "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = %s::regclass AND attnum = 1"
    assert [database.execute(types, (kind,)).fetchone() for kind in ("json", "uuid", "decimal")] == [
        ("jsonb",),
        ("uuid",),
        ("numeric(20,4)",),
    ]


def test_a_number_that_a_double_has_rounded_is_no_numeric(
    warehouse: PostgresqlWarehouse, database: psycopg.Connection, tmp_path: Path
) -> None:
    columns = (Column(name="a", type="number"),)
    frame = pl.DataFrame({"_row": [1, 2], "a": ["1.5", "123456789012345678.12"]})
    rows, _ = cast(frame, columns)
    pq.write_table(rows, tmp_path / "one.parquet")
    database.execute("CREATE TABLE exact (a numeric)")
    with pytest.raises(TableMismatch, match=r"is numeric, and row 2 has more digits .* declare it decimal"):
        warehouse.load("m", job(table="exact", columns=columns), tmp_path / "one.parquet", progress=ignore)
    assert warehouse.load(
        "m", job(table="double", columns=columns), tmp_path / "one.parquet", progress=ignore
    ) == Outcome(2, 0)


# Keys, names and locks ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "first", "second"),
    [
        ("public.citext", "Ada@x.org", "ada@x.org"),
        ("character(3)", "a", "a "),
        ("text COLLATE blind", "Ada", "ADA"),
        ("numeric", "1.0", "1.00"),
        ("uuid", "550E8400-e29b-41d4-a716-446655440000", "550e8400e29b41d4a716446655440000"),
    ],
)
def test_rows_that_are_equal_only_in_the_table_are_superseded(
    warehouse: PostgresqlWarehouse, database: psycopg.Connection, tmp_path: Path, target: str, first: str, second: str
) -> None:
    database.execute("CREATE EXTENSION IF NOT EXISTS citext SCHEMA public")
    database.execute("CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
    database.execute(f"CREATE TABLE people (id {target} PRIMARY KEY, name text)")
    columns = (Column(name="id", type="text", trim=False), Column(name="name", type="text"))
    rows = pa.table([[1, 2], [first, second], ["old", "new"]], schema=schema(columns))
    pq.write_table(rows, tmp_path / "rows.parquet")
    outcome = warehouse.load("m", job(columns=columns, key=("id",)), tmp_path / "rows.parquet", progress=ignore)
    assert outcome == Outcome(rows_loaded=1, rows_superseded=1)
    assert database.execute("SELECT name FROM people").fetchall() == [("new",)]


def test_names_in_mixed_case_and_reserved_ones_are_used_as_they_are(
    warehouse: PostgresqlWarehouse, database: psycopg.Connection, tmp_path: Path
) -> None:
    database.execute('CREATE TABLE "Order" ("userName" text, "select" bigint, "Order ID" bigint PRIMARY KEY)')
    columns = tuple(
        Column.model_validate({"name": name, "type": kind})
        for name, kind in (("userName", "text"), ("select", "integer"), ("Order ID", "integer"))
    )
    pq.write_table(pa.table([[1], ["x"], [2], [3]], schema=schema(columns)), tmp_path / "rows.parquet")
    loaded = job(table="Order", columns=columns, key=("Order ID",))
    warehouse.load("m", loaded, tmp_path / "rows.parquet", progress=ignore)
    assert database.execute('SELECT * FROM "Order"').fetchall() == [("x", 2, 3)]
    other = job(table="Order", columns=(Column(name="username", type="text"),))
    with pytest.raises(TableMismatch, match=r"without the columns username \(it has userName, select, Order ID\)"):
        warehouse.load("m2", other, tmp_path / "rows.parquet", progress=ignore)


def test_two_loads_that_replace_at_a_time_leave_the_rows_of_one(
    warehouse: PostgresqlWarehouse, database: psycopg.Connection, tmp_path: Path
) -> None:
    rows = rows_file(tmp_path, *(row(n) for n in range(2000)))
    warehouse.load("first", job(), rows, progress=ignore)
    together = threading.Barrier(3)

    def load(number: int) -> Outcome:
        together.wait()
        return warehouse.load(f"m{number}", job(mode="replace"), rows, progress=ignore)

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(load, range(3))) == [Outcome(2000, 0)] * 3
    assert database.execute("SELECT count(*) FROM people").fetchone() == (2000,)


def test_loads_of_the_same_keys_in_another_order_wait_for_each_other(
    warehouse: PostgresqlWarehouse, database: psycopg.Connection, tmp_path: Path
) -> None:
    keyed = job(key=("id",))
    for name, numbers in (("up", range(3000)), ("down", range(2999, -1, -1))):
        (tmp_path / name).mkdir()
        rows_file(tmp_path / name, *(row(n, name) for n in numbers))
    warehouse.load("first", keyed, tmp_path / "up" / "rows.parquet", progress=ignore)
    together = threading.Barrier(4)

    def load(number: int) -> Outcome:
        together.wait()
        rows = tmp_path / ("up", "down")[number % 2] / "rows.parquet"
        return warehouse.load(f"m{number}", keyed, rows, progress=ignore)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(load, range(4))) == [Outcome(3000, 0)] * 4
    assert database.execute("SELECT count(DISTINCT name) FROM people").fetchone() == (1,)


def test_a_key_that_is_checked_only_at_the_commit_is_permanent(
    warehouse: PostgresqlWarehouse, database: psycopg.Connection, tmp_path: Path
) -> None:
    rows = rows_file(tmp_path, row(1))
    warehouse.load("m", job(), rows, progress=ignore)
    database.execute("ALTER TABLE people ADD UNIQUE (id) DEFERRABLE")
    with pytest.raises(TableMismatch, match="deferrable"):
        warehouse.load("m2", job(key=("id",)), rows, progress=ignore)


def test_a_view_and_a_trigger_that_refuse_are_permanent(
    warehouse: PostgresqlWarehouse, database: psycopg.Connection, tmp_path: Path
) -> None:
    rows = rows_file(tmp_path, row(1))
    names = ", ".join(f"NULL::{kind} AS {name}" for name, kind in zip(*VIEW, strict=True))
    database.execute(f"CREATE VIEW people AS SELECT DISTINCT {names}")
    with pytest.raises(TableMismatch, match="cannot insert into view"):
        warehouse.load("m", job(), rows, progress=ignore)
    database.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'closed' USING ERRCODE = '55000'; END $$"
    )
    warehouse.load("m", job(table="guarded"), rows, progress=ignore)
    database.execute("CREATE TRIGGER t BEFORE INSERT ON guarded FOR EACH ROW EXECUTE FUNCTION refuse()")
    with pytest.raises(TableMismatch, match="closed"):
        warehouse.load("m2", job(table="guarded"), rows, progress=ignore)


VIEW = (
    ("id", "name", "amount", "paid", "day", "seen"),
    ("bigint", "text", "float8", "boolean", "date", "timestamptz"),
)


def test_rights_that_are_missing_are_permanent_and_a_login_that_is_refused_is_an_outage(
    postgres_schema: str, database: psycopg.Connection, tmp_path: Path
) -> None:
    name = f"guest_{uuid4().hex[:8]}"
    database.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'x'")
    schema_name = database.execute("SELECT current_schema()").fetchone()
    assert schema_name is not None
    database.execute(f"GRANT USAGE, CREATE ON SCHEMA {schema_name[0]} TO {name}")
    database.execute("CREATE TABLE people AS SELECT 1::bigint AS id")
    guest = postgres_schema.replace("postgres:postgres@", f"{name}:x@")
    only_id = job(columns=COLUMNS[:1])
    pq.write_table(pa.table([[1], [1]], schema=schema(COLUMNS[:1])), tmp_path / "rows.parquet")
    with pytest.raises(TableMismatch, match="42501"):
        PostgresqlWarehouse(guest, timeout=5).load("m", only_id, tmp_path / "rows.parquet", progress=ignore)
    with pytest.raises(DatabaseDown, match="password authentication failed"):
        PostgresqlWarehouse(guest.replace(f"{name}:x", f"{name}:y"), timeout=5).outcome("m")
    database.execute(f"DROP OWNED BY {name}")
    database.execute(f"DROP ROLE {name}")
