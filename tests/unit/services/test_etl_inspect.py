"""``etl-service inspect``: what it prints reads the source, with the right types."""

import gzip
from pathlib import Path

import polars as pl
import pyarrow as pa  # type: ignore[import-untyped]  # ships no types
import pyarrow.parquet as pq  # type: ignore[import-untyped]  # ships no types
import pytest

from etl_service.casting import cast
from etl_service.cli import main
from etl_service.errors import SourceUnreadable
from etl_service.inspection import inspect
from etl_service.sources.reader import read
from etl_service.sources.writing import Writing
from jobkit.contracts.etl import RunPipeline


def printed(capsys: pytest.CaptureFixture[str]) -> tuple[str, RunPipeline]:
    """The report, and the job in it."""
    report, _, code = capsys.readouterr().out.partition("\nfrom jobkit")
    names: dict[str, object] = {}
    exec("from jobkit" + code.replace("\nRunPipeline(", "\njob = RunPipeline("), names)
    job = names["job"]
    assert isinstance(job, RunPipeline)
    return report, job


def read_by(job: RunPipeline, path: Path) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for batch in read(path, job.format, job.columns, Writing.of(job)):
        table, rejects = cast(batch.frame(), job.columns, (), Writing.of(job))
        assert not rejects
        assert not batch.rejects
        rows += zip(*(table[column.name].to_pylist() for column in job.columns), strict=True)
    return rows


GERMAN = (
    "Kunden-Nr;Name;Betrag;bezahlt am;gesehen;PLZ;offen\n"
    "1;Köln;1.234,50;01.10.2026;1.10.2026 8:30;00501;yes\n"
    '2;"A; B";3,10;-;;50667;no\n'
)


def test_what_is_printed_reads_the_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "Orders 2026.csv.gz").write_bytes(gzip.compress(GERMAN.encode("cp1252")))
    assert main(["inspect", str(tmp_path / "Orders 2026.csv.gz")]) == 0
    report, job = printed(capsys)
    assert report.splitlines()[:4] == [
        "format     csv",
        "encoding   cp1252",
        "delimiter  ';'",
        "rows       2",
    ]
    assert "Betrag      decimal(18, 2)" in report
    assert "encoding cp1252 is a guess" in report
    kinds = [column.type for column in job.columns]
    assert kinds == ["integer", "text", "decimal", "date", "timestamp", "text", "boolean"]
    assert (job.table, job.missing, job.decimal_mark, job.thousands_mark) == ("orders_2026", ("-",), ",", ".")
    (tmp_path / "plain.csv").write_bytes(GERMAN.encode("cp1252"))
    assert [str(row[2]) for row in read_by(job, tmp_path / "plain.csv")] == ["1234.50", "3.10"]


def test_json_lines_are_told_with_their_nested_fields(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.jsonl").write_text(
        '{"id": 1, "userName": "x", "price": 1.10, "tags": ["a"], "at": "2026-10-01T08:30:00Z"}\n'
        '{"id": 2, "price": 100.5}\n'
    )
    assert main(["inspect", str(tmp_path / "x.jsonl")]) == 0
    _, job = printed(capsys)
    assert [(column.name, column.source, column.type) for column in job.columns] == [
        ("id", "id", "integer"),
        ("user_name", "userName", "text"),
        ("price", "price", "decimal"),
        ("tags", "tags", "json"),
        ("at", "at", "timestamp"),
    ]
    assert len(read_by(job, tmp_path / "x.jsonl")) == 2


def test_parquet_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pl.DataFrame({"id": [1, 2], "name": ["007", None], "list": [[1], [2]]}).write_parquet(tmp_path / "x.parquet")
    assert main(["inspect", str(tmp_path / "x.parquet")]) == 0
    _, job = printed(capsys)
    assert [column.type for column in job.columns] == ["integer", "text", "json"]
    assert len(read_by(job, tmp_path / "x.parquet")) == 2


@pytest.mark.parametrize(
    ("content", "delimiter"),
    [("a,b\n1,2\n", ","), ("a\tb\n1\t2,5\n", "\t"), ("a|b\n1|x;y\n", "|"), ("sep=;\na;b\n1;2\n", ";"), ("a\n1\n", ",")],
)
def test_the_delimiter_is_found(tmp_path: Path, content: str, delimiter: str) -> None:
    (tmp_path / "x").write_text(content)
    assert inspect(tmp_path / "x", "x").job.delimiter == delimiter


def test_what_is_uncertain_is_said(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("day,x,x\n01/02/2026,1,2\n")
    found = inspect(tmp_path / "x", "x")
    assert [column.name for column in found.job.columns] == ["day"]
    assert found.notes == (
        "left out, as the source names them more than once: x",
        "day: %d/%m/%Y is a guess, as no day is above 12",
    )


def test_only_the_first_rows_are_looked_at(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("a\n" + "1\n" * 30_000)
    found = inspect(tmp_path / "x", "x")
    assert (found.rows, found.whole) == (10_000, False)


def test_a_part_of_one_batch_is_not_the_whole_source(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"a\n" + b"1\n" * 10_001)
    found = inspect(tmp_path / "x", "x")
    assert (found.rows, found.whole) == (10_000, False)


def test_long_rows_are_looked_at_up_to_a_bound(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"a\n" + (b"x" * 1_000_000 + b"\n") * 100)
    found = inspect(tmp_path / "x", "x")
    assert 60 < found.rows < 100
    assert not found.whole


def test_a_source_that_is_not_there_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETL_STORAGE_URL", (tmp_path / "files").as_uri())
    monkeypatch.setenv("ETL_DATABASE_URL", f"sqlite:///{tmp_path}/etl.db")
    assert main(["inspect", "in/none.csv"]) == 1
    assert capsys.readouterr().err == "etl-service: there is no object 'in/none.csv' in storage\n"


def looked_at(folder: Path, content: bytes) -> RunPipeline:
    (folder / "x").write_bytes(content)
    return inspect(folder / "x", "x").job


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty: it has 0 bytes"),
        (b"a,a\n1,2\n", "names them more than once: a"),
        (b'"a"b,c\n1,2\n', "the header of the source is not valid CSV"),
        (b"a" * 5_000_000, "has more than 4,194,304 characters"),
        (b'[\n  {"a": 1},\n  {"a": 2}\n]\n', "one JSON value over many lines"),
        (b'{\n  "a": 1\n}\n', "one JSON value over many lines"),
        (b'[{"a": 1}, {"a": 2}]\n', "no line with a JSON object .*: line 1 is not a JSON object"),
        (b'{"a": 1}{"a": 2}\n', "no line with a JSON object .*: line 1 is not valid JSON: Extra data"),
        (b'{"a": 1, "a": 2}\n', "line 1 names the field 'a' twice"),
        (bytes(range(256)) * 20, "no text of an encoding that can be told"),
        (b"\xff\xff\xff\xff\0\0\0\0\x10\0\0\0\0\0\x0a\0\x0e\0" * 9, "no text of an encoding that can be told"),
    ],
)
def test_what_is_no_source_is_refused_with_the_reason(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(SourceUnreadable, match=message):
        looked_at(tmp_path, content)


@pytest.mark.parametrize(
    ("encoding", "found"),
    [("utf-16-le", "utf-16-le"), ("utf-16-be", "utf-16-be"), ("utf-8", None), ("cp1251", "cp1252")],
)
def test_the_encoding_of_other_letters_is_found(tmp_path: Path, encoding: str, found: str | None) -> None:
    assert looked_at(tmp_path, "номер,имя\n1,Ольга Петрова\n2,Пётр\n".encode(encoding)).encoding == found


def test_a_few_zero_bytes_are_no_other_encoding(tmp_path: Path) -> None:
    job = looked_at(tmp_path, b"col1|col2|col3\nval1|val\x002|val3\nval1|val2|val3\n")
    assert (job.encoding, job.delimiter) == (None, "|")


@pytest.mark.parametrize("name", ["ѐ" * 100, "q" * 1000, "İstanbul", "ΔX" * 30, "1st", "_row", "col\u0301umn"])
def test_any_name_of_a_column_becomes_one_that_a_table_can_have(tmp_path: Path, name: str) -> None:
    job = looked_at(tmp_path, f"{name},b\n1,2\n".encode())
    assert read_by(job, tmp_path / "x") == [(1, 2)]


@pytest.mark.parametrize("source", ["pg_stat.csv", "sqlite_dump.csv", "jobkit_inbox.csv"])
def test_a_name_of_the_database_is_not_proposed_for_the_table(tmp_path: Path, source: str) -> None:
    (tmp_path / "x").write_bytes(b"a\n1\n")
    assert inspect(tmp_path / "x", source).job.table == f"t_{source.removesuffix('.csv')}"


def test_columns_that_no_job_can_have_are_left_out_and_named(tmp_path: Path) -> None:
    (tmp_path / "wide").write_text(",".join(f"c{n}" for n in range(502)) + "\n" + "1," * 501 + "1\n")
    found = inspect(tmp_path / "wide", "wide")
    assert (len(found.job.columns), found.notes) == (500, ("left out, as a job has at most 500 columns: c500, c501",))
    (tmp_path / "long").write_text(f"a,{'b' * 1001},\n1,2,3\n")
    notes = inspect(tmp_path / "long", "long").notes
    assert [note.partition(":")[0] for note in notes] == [
        "left out, as a name has at most 1000 characters",
        "left out, as they have no name",
    ]


def test_columns_of_parquet_that_cannot_be_read_are_left_out_and_named(tmp_path: Path) -> None:
    table = pa.table({"a": [1], "shape": [b"\x01\xff"], "waited": pa.array([1], pa.duration("s")), "z": ["x"]})
    pq.write_table(table, tmp_path / "x")
    found = inspect(tmp_path / "x", "x")
    assert read_by(found.job, tmp_path / "x") == [(1, "x")]
    assert found.notes == (
        "left out: column 'shape' of the source holds bytes that are not UTF-8 text",
        "left out: column 'waited' of the source holds duration[s], which cannot become text",
    )


def test_numbers_that_are_none_are_missing_values(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": pa.array([1.0, float("nan")])}), tmp_path / "x")
    job = inspect(tmp_path / "x", "x").job
    assert read_by(job, tmp_path / "x") == [(1,), (None,)]
