"""``etl-service inspect``: what it prints reads the source, with the right types."""

import gzip
from pathlib import Path

import polars as pl
import pytest

from etl_service.casting import cast
from etl_service.cli import main
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


def test_a_source_that_is_not_there_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETL_STORAGE_URL", (tmp_path / "files").as_uri())
    monkeypatch.setenv("ETL_DATABASE_URL", f"sqlite:///{tmp_path}/etl.db")
    assert main(["inspect", "in/none.csv"]) == 1
    assert capsys.readouterr().err == "etl-service: there is no object 'in/none.csv' in storage\n"
