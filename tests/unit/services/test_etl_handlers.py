import gzip
import json
import sqlite3
from pathlib import Path

import polars as pl
import pytest

from etl_service import handlers
from etl_service.adapters.files import ObjectFiles
from etl_service.adapters.sqlite import SqliteWarehouse
from etl_service.errors import (
    NothingToLoad,
    SourceForbidden,
    SourceMissing,
    SourceTooLarge,
    SourceUnreadable,
    TooManyRejects,
)
from jobkit.contracts.etl import Column, LoadTable, RunPipeline, SourceJob, TableJob, TransformTable
from jobkit.contracts.job import Job
from jobkit.errors import PermanentError

COLUMNS = (
    Column(name="id", type="integer", required=True, source_name="ID"),
    Column(name="email", type="text", case="lower"),
    Column(name="amount", type="number"),
    Column(name="paid", type="boolean"),
    Column(name="day", type="date"),
    Column(name="seen", type="timestamp"),
)
ORDERS = """ID,email,amount,paid,day,seen,unused
1, A@Example.com ,1.5,yes,2026-10-01,2026-10-01T08:30:00+02:00,x
two,b@example.com,1,no,2026-10-01,,x
3,c@example.com,12;5,perhaps,2026-02-30,,x
4,d@example.com
5,,,,,,
"""


class NoWeb:
    def download(self, url: str, to: Path, *, limit: int) -> None:
        raise SourceForbidden(url)


class World:
    """Storage, database and the sent jobs of one test; ``run`` does what the workers would do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "files"
        self.files = ObjectFiles.at(str(self.folder))
        self.database = folder / "etl.db"
        self.warehouse = SqliteWarehouse.at(self.database, timeout=5)
        self.sent: list[Job] = []
        self.progress: list[float] = []

    def put(self, key: str, content: str | bytes) -> None:
        path = self.folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    def run(self, job: RunPipeline, job_id: str = "run-1", max_bytes: int = 1_000_000) -> handlers.Loaded:
        send, progress = self.sent.append, self.progress.append
        handlers.run_pipeline(job, job_id, self.files, NoWeb(), max_bytes=max_bytes, send=send, progress=progress)
        transform = self.sent.pop()
        assert isinstance(transform, TransformTable)
        handlers.transform_table(transform, self.files, send=send, progress=progress)
        load = self.sent.pop()
        assert isinstance(load, LoadTable)
        self.load_job = load
        return handlers.load_table(load, f"{job_id}/load", self.files, self.warehouse, progress=progress)

    def rows(self, sql: str) -> list[tuple[object, ...]]:
        connection = sqlite3.connect(self.database)
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()

    def rejects(self, key: str | None) -> list[dict[str, object]]:
        assert key is not None
        return [json.loads(line) for line in (self.folder / key).read_text().splitlines()]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def pipeline(**changes: object) -> RunPipeline:
    return RunPipeline.model_validate(
        {"source": "in/orders.csv", "format": "csv", "table": "orders", "columns": COLUMNS} | changes
    )


def test_good_rows_are_loaded_typed_and_normalised(world: World) -> None:
    world.put("in/orders.csv", ORDERS)
    world.run(pipeline())
    assert world.rows("SELECT * FROM orders") == [
        (1, "a@example.com", 1.5, 1, "2026-10-01", "2026-10-01T06:30:00.000000"),
        (5, None, None, None, None, None),
    ]


def test_every_bad_row_is_kept_with_its_number_and_all_its_reasons(world: World) -> None:
    world.put("in/orders.csv", ORDERS)
    loaded = world.run(pipeline())
    assert (loaded.rows_loaded, loaded.rows_rejected, loaded.rows_superseded) == (2, 3, 0)
    bad = world.rejects(loaded.rejects)
    assert [row["row"] for row in bad] == [2, 3, 4]
    assert bad[0]["reasons"] == {"id": "'two' is not a whole number of 64 bits"}
    assert bad[1]["reasons"] == {
        "amount": "'12;5' is not a finite decimal number",
        "paid": "'perhaps' is not true or false",
        "day": "'2026-02-30' is not a date like 2026-10-01",
    }
    assert bad[1]["record"] == dict(
        zip(("ID", "email", "amount", "paid", "day", "seen"), ORDERS.splitlines()[3].split(",")[:6], strict=True)
    )
    assert bad[2] == {"row": 4, "reasons": {"*": "has 2 cells instead of 7"}, "record": ["4", "d@example.com"]}


def test_the_three_formats_load_the_same_rows(world: World) -> None:
    records = [
        {"ID": 1, "email": "A@example.com", "amount": 2.0, "paid": True, "day": "2026-10-01", "seen": None},
        {"ID": 2, "email": None, "amount": 0.1, "paid": None, "day": None, "seen": "2026-10-01T08:30:00Z"},
    ]
    frame = pl.DataFrame(records)
    world.put("in/a.csv", frame.write_csv())
    world.put("in/a.jsonl", frame.write_ndjson())
    frame.with_columns(
        pl.col("day").str.to_date(), pl.col("seen").str.to_datetime(time_unit="ns", time_zone="Europe/Berlin")
    ).write_parquet(world.folder / "in/a.parquet")
    for form in ("csv", "jsonl", "parquet"):
        world.run(pipeline(source=f"in/a.{form}", format=form, table=form), job_id=form)
    assert world.rows("SELECT * FROM csv") == world.rows("SELECT * FROM jsonl") == world.rows("SELECT * FROM parquet")
    assert world.rows("SELECT seen FROM csv") == [(None,), ("2026-10-01T08:30:00.000000",)]


def test_a_redelivered_load_changes_nothing_and_answers_with_the_recorded_counts(world: World) -> None:
    world.put("in/orders.csv", ORDERS)
    first = world.run(pipeline())
    (world.folder / world.load_job.rows).unlink()  # what a clean-up may have done since
    again = handlers.load_table(
        world.load_job, "run-1/load", world.files, world.warehouse, progress=world.progress.append
    )
    assert again == first.model_copy(update={"already_loaded": True})
    assert world.rows("SELECT count(*) FROM orders") == [(2,)]


def test_a_run_again_from_the_start_writes_the_same_objects(world: World) -> None:
    world.put("in/orders.csv", ORDERS)
    world.run(pipeline())
    before = sorted(path.name for path in world.folder.rglob("runs/run-1/*"))
    again = world.run(pipeline())
    assert again.already_loaded
    assert sorted(path.name for path in world.folder.rglob("runs/run-1/*")) == before
    assert [name.split("-")[0] for name in before] == ["extract", "rejects", "rows"]


def test_a_source_changed_after_the_first_step_does_not_change_the_run(world: World) -> None:
    world.put("in/orders.csv", "ID\n1\n")
    job = pipeline(columns=COLUMNS[:1])
    handlers.run_pipeline(
        job, "r", world.files, NoWeb(), max_bytes=100, send=world.sent.append, progress=world.progress.append
    )
    world.put("in/orders.csv", "ID\n1\n2\n3\n")
    transform = world.sent.pop()
    assert isinstance(transform, TransformTable)
    done = handlers.transform_table(transform, world.files, send=world.sent.append, progress=world.progress.append)
    assert done.rows_typed == 1


def test_many_batches_are_read_in_order_and_none_is_lost(world: World) -> None:
    count = 45_000
    world.put("in/orders.csv", "ID\n" + "".join(f"{n if n % 1000 else 'x'}\n" for n in range(1, count + 1)))
    loaded = world.run(pipeline(columns=COLUMNS[:1]))
    assert (loaded.rows_loaded, loaded.rows_rejected) == (count - 45, 45)
    assert world.rows("SELECT count(DISTINCT id), min(id), max(id) FROM orders") == [(count - 45, 1, count - 1)]
    assert [row["row"] for row in world.rejects(loaded.rejects)] == list(range(1000, count + 1, 1000))
    assert all(0 <= percent <= 100 for percent in world.progress)


def test_a_header_without_rows_loads_an_empty_table(world: World) -> None:
    world.put("in/orders.csv", "ID\n")
    assert world.run(pipeline(columns=COLUMNS[:1])).rows_loaded == 0
    assert world.rows("SELECT count(*) FROM orders") == [(0,)]


def test_a_missing_source_is_permanent(world: World) -> None:
    with pytest.raises(SourceMissing, match=r"in/orders\.csv"):
        world.run(pipeline())


def test_a_source_above_the_limit_is_refused_before_it_is_read(world: World) -> None:
    world.put("in/orders.csv", ORDERS)
    with pytest.raises(SourceTooLarge, match="ETL_MAX_BYTES allows 10"):
        world.run(pipeline(), max_bytes=10)


@pytest.mark.parametrize(
    ("form", "content", "message"),
    [
        ("csv", b"", "empty"),
        ("csv", b"a,b\n1,2\n", "has no columns ID: it has a, b"),
        ("csv", b"ID,x,ID\n1,2,3\n", "columns ID more than once"),
        ("csv", b"ID\n\xff\xfe\n", "not UTF-8 text .byte 0xff"),
        ("csv", b'"ID\n1\n', "header of the source is not valid CSV"),
        ("csv", b"ID,a\n1\n2\n", "no row of the source can be read as csv: row 1 has 1 cells instead of 2"),
        ("jsonl", b"[\n1,\n2\n]\n", "no row of the source can be read as jsonl"),
        ("jsonl", b'{"id": 1}\n', "no record of the source has the fields ID: they have id"),
        ("jsonl", b'{"ID": "\xff"}\n', "not UTF-8"),
        ("parquet", b"PAR1 and no more", "not readable as Parquet"),
    ],
)
def test_a_source_that_is_not_what_the_job_says_is_permanent(
    world: World, form: str, content: bytes, message: str
) -> None:
    world.put("in/x", content)
    with pytest.raises(SourceUnreadable, match=message):
        world.run(pipeline(source="in/x", format=form, columns=COLUMNS[:1]))


def test_a_truncated_parquet_file_is_permanent(world: World) -> None:
    pl.DataFrame({"ID": range(1000)}).write_parquet(path := world.folder / "x")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(SourceUnreadable, match="cut off"):
        world.run(pipeline(source="x", format="parquet", columns=COLUMNS[:1]))


def test_a_parquet_file_with_damaged_pages_is_permanent(world: World) -> None:
    pl.DataFrame({"ID": range(100_000)}).write_parquet(path := world.folder / "x")
    content = bytearray(path.read_bytes())
    content[4:2000] = b"\x00" * 1996
    path.write_bytes(content)
    with pytest.raises(SourceUnreadable, match="not readable as Parquet"):
        world.run(pipeline(source="x", format="parquet", columns=COLUMNS[:1]))


def test_a_parquet_column_of_lists_cannot_become_a_number(world: World) -> None:
    pl.DataFrame({"ID": [[1]]}).write_parquet(world.folder / "x")
    with pytest.raises(SourceUnreadable, match=r"'ID' of the source holds large_list.*cannot become integer"):
        world.run(pipeline(source="x", format="parquet", columns=COLUMNS[:1]))


def test_malformed_lines_are_rejects_and_the_lines_around_them_are_loaded(world: World) -> None:
    lines = [
        '{"ID": 1}',
        '{"ID": 2',
        '{"ID": NaN}',
        "[3]",
        '{"ID": [4]}',
        '{"ID": "\\ud800"}',
        "[" * 200_000,
        '{"ID": ' + "9" * 5000 + "}",
        "",
        '{"ID": 9.0}',
    ]
    world.put("x", "\n".join(lines))
    loaded = world.run(pipeline(source="x", format="jsonl", columns=COLUMNS[:1]))
    assert world.rows("SELECT id FROM orders") == [(1,), (9,)]
    assert [row["row"] for row in world.rejects(loaded.rejects)] == [2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("bad", ['"2"x', '"2'])
def test_a_broken_quote_is_a_reject_with_its_text(world: World, bad: str) -> None:
    world.put("in/orders.csv", f"ID\n1\n{bad}\n")
    loaded = world.run(pipeline(columns=COLUMNS[:1]))
    assert (loaded.rows_loaded, loaded.rows_rejected) == (1, 1)
    (reject,) = world.rejects(loaded.rejects)
    assert reject["record"] == f"{bad}\n"


def test_a_cell_of_a_key_must_not_be_missing(world: World) -> None:
    world.put("in/orders.csv", 'email\na@example.com\n" "\n')
    loaded = world.run(pipeline(columns=COLUMNS[1:2], key=("email",)))
    assert (loaded.rows_loaded, loaded.rows_rejected) == (1, 1)


@pytest.mark.parametrize("job_id", ["a/b c", "..", "ü", "x" * 500])
def test_any_job_id_gives_a_safe_folder(job_id: str, world: World) -> None:
    world.put("in/orders.csv", ORDERS)
    loaded = world.run(pipeline(), job_id=job_id)
    assert len(loaded.run_id) == 32
    assert (world.folder / "runs" / loaded.run_id).is_dir()


# What replaces a table ------------------------------------------------------------------------

FIELDS = ({"name": "id", "type": "integer"}, {"name": "amount", "type": "number"})


def replacing(world: World, content: str | bytes, form: str = "csv", **changes: object) -> handlers.Loaded:
    """Replace a table of two rows by a source."""
    world.put("in/first.csv", "id,amount\n1,10.5\n2,3.1\n")
    world.run(pipeline(source="in/first.csv", columns=FIELDS), job_id="first")
    world.put("in/x", content)
    return world.run(
        pipeline(**{"source": "in/x", "format": form, "columns": FIELDS, "mode": "replace"} | changes), job_id="second"
    )


@pytest.mark.parametrize(
    ("form", "content", "error"),
    [
        ("csv", 'id,amount\n1,"12,50"\n2,"3,10"\n', TooManyRejects),
        ("csv", "id,amount\n1,1.5\n2,x\n", TooManyRejects),
        ("csv", "id,amount\n", NothingToLoad),
        ("csv", "id,amount\n,,\n,,\n", NothingToLoad),
        ("csv", "", SourceUnreadable),
        ("jsonl", '[{"id": 1, "amount": 1},\n{"id": 2, "amount": 2}\n]\n', TooManyRejects),
        ("jsonl", "\n\n", NothingToLoad),
        ("jsonl", '{"error": "rate limit exceeded"}\n', SourceUnreadable),
        ("jsonl", '{"ident": 1, "sum": 1}\n', SourceUnreadable),
    ],
)
def test_a_source_with_next_to_nothing_replaces_no_table(
    world: World, form: str, content: str, error: type[PermanentError]
) -> None:
    with pytest.raises(error):
        replacing(world, content, form)
    assert world.rows("SELECT * FROM orders") == [(1, 10.5), (2, 3.1)]


@pytest.mark.parametrize("max_rejected", [1, 0.5])
def test_as_many_rejects_as_the_job_allows_are_left_out(world: World, max_rejected: float) -> None:
    loaded = replacing(world, "id,amount\n1,1.5\n2,x\n", max_rejected=max_rejected)
    assert (loaded.rows_loaded, loaded.rows_rejected) == (1, 1)
    assert world.rows("SELECT * FROM orders") == [(1, 1.5)]


def test_the_error_of_too_many_rejects_tells_the_first_and_where_all_are(world: World) -> None:
    with pytest.raises(TooManyRejects, match=r"2 of 3 rows are rejected, and max_rejected allows 50\.0%: row 2 amount"):
        replacing(world, "id,amount\n1,1.5\n2,x\n3,y\n", max_rejected=0.5)
    (rejects,) = (world.folder / "runs" / "second").glob("rejects-*")
    assert len(rejects.read_text().splitlines()) == 2


def test_rejects_alone_never_empty_a_table(world: World) -> None:
    with pytest.raises(NothingToLoad, match="all 1 rows are rejected"):
        replacing(world, "id,amount\n1,x\n", max_rejected=1.0, allow_empty=True)


@pytest.mark.parametrize(("form", "content"), [("csv", "id,amount\n"), ("csv", ""), ("jsonl", "\n"), ("jsonl", "")])
def test_an_empty_source_empties_a_table_if_the_job_says_so(world: World, form: str, content: str) -> None:
    assert replacing(world, content, form, allow_empty=True).rows_loaded == 0
    assert world.rows("SELECT * FROM orders") == []


def test_a_load_that_was_sent_before_this_was_checked_empties_no_table(world: World) -> None:
    world.put("in/orders.csv", "ID\n1\n")
    world.run(pipeline(columns=COLUMNS[:1]))
    world.put("in/empty.csv", "ID\n")
    world.run(pipeline(source="in/empty.csv", columns=COLUMNS[:1]), job_id="run-2")
    old = world.load_job.model_copy(update={"mode": "replace"})
    with pytest.raises(NothingToLoad):
        handlers.load_table(old, "old", world.files, world.warehouse, progress=world.progress.append)
    assert world.rows("SELECT * FROM orders") == [(1,)]


def test_without_a_limit_any_number_of_rows_may_be_rejected_when_rows_are_added(world: World) -> None:
    world.put("in/orders.csv", "ID\nx\ny\n")
    assert world.run(pipeline(columns=COLUMNS[:1])).rows_rejected == 2


# How a source is written ------------------------------------------------------------------------


def test_a_source_is_read_as_the_job_says_it_is_written(world: World) -> None:
    content = "id;amount;day;seen\n1;1.234,50;01.10.2026;1.10.2026 8:30\n2;NA;-;\n"
    world.put("in/x", content.encode("cp1252"))
    columns = [
        Column(name="id", type="integer"),
        Column.model_validate({"name": "amount", "type": "decimal(12, 2)"}),
        Column(name="day", type="date", format="%d.%m.%Y"),
        Column(name="seen", type="timestamp", format="%d.%m.%Y %H:%M", timezone="Europe/Berlin"),
    ]
    writing = {
        "delimiter": ";",
        "encoding": "cp1252",
        "decimal_mark": ",",
        "thousands_mark": ".",
        "missing": ["NA", "-"],
    }
    world.run(pipeline(source="in/x", columns=columns, mode="replace", **writing))
    assert world.rows("SELECT * FROM orders") == [
        (1, "1234.50", "2026-10-01", "2026-10-01T06:30:00.000000"),
        (2, None, None, None),
    ]


class Served:
    """A web server's answer: a body, and the charset that it names."""

    def __init__(self, body: bytes, charset: str | None) -> None:
        self.body, self.charset = body, charset

    def download(self, url: str, to: Path, *, limit: int) -> str | None:
        del url, limit
        to.write_bytes(self.body)
        return self.charset


@pytest.mark.parametrize(
    ("body", "charset"),
    [
        ("name\nKöln\n".encode("cp1252"), "windows-1252"),
        ("name\nKöln\n".encode("cp1252"), "ISO-8859-1"),
        ("name\nKöln\n".encode(), "ISO-8859-1"),  # a server's default, and not that of the file
        ("name\nKöln\n".encode(), "no-such-charset"),
        ("name\nKöln\n".encode("utf-16-le"), "utf-16-le"),
        ("name\nKöln\n".encode("utf-16"), "utf-8"),
        (gzip.compress("name\nKöln\n".encode("cp1252"), mtime=0), "windows-1252"),
    ],
)
def test_the_charset_of_a_server_is_used_where_the_file_needs_one(world: World, body: bytes, charset: str) -> None:
    job = pipeline(source="https://data.example.org/x", columns=({"name": "name", "type": "text"},))
    send, progress = world.sent.append, world.progress.append
    handlers.run_pipeline(job, "r", world.files, Served(body, charset), max_bytes=100, send=send, progress=progress)
    transform = world.sent.pop()
    assert isinstance(transform, TransformTable)
    handlers.transform_table(transform, world.files, send=send, progress=progress)
    load = world.sent.pop()
    assert isinstance(load, LoadTable)
    handlers.load_table(load, "r", world.files, world.warehouse, progress=progress)
    assert world.rows("SELECT * FROM orders") == [("Köln",)]


def test_the_options_of_the_first_job_reach_the_others(world: World) -> None:
    world.put("in/x", "ID\n1\n")
    job = pipeline(
        source="in/x", columns=COLUMNS[:1], max_rejected=0.5, allow_empty=True, missing=["x"], thousands_mark="_"
    )
    send, progress = world.sent.append, world.progress.append
    handlers.run_pipeline(job, "r", world.files, NoWeb(), max_bytes=100, send=send, progress=progress)
    transform = world.sent[-1]
    assert isinstance(transform, TransformTable)
    for name in SourceJob.model_fields:
        assert getattr(transform, name) == getattr(job, name), name
    handlers.transform_table(transform, world.files, send=send, progress=progress)
    for name in TableJob.model_fields:
        assert getattr(world.sent[-1], name) == getattr(job, name), name
