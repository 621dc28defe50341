from pathlib import Path

import pytest
from pydantic import ValidationError

from etl_service.adapters.files import ObjectFiles
from etl_service.adapters.postgresql import PostgresqlWarehouse
from etl_service.adapters.resources import open_resources
from etl_service.adapters.sqlite import SqliteWarehouse
from etl_service.errors import DatabaseUnavailable, DiskUnavailable, SourceMissing
from etl_service.settings import EtlSettings
from jobkit.contracts.etl import Column, RunPipeline
from jobkit.errors import SettingsError

GOOD = {"source": "in/a.csv", "format": "csv", "table": "t", "columns": [{"name": "a", "type": "text"}]}


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> EtlSettings:
    monkeypatch.setenv("ETL_STORAGE_URL", (tmp_path / "files").as_uri())
    monkeypatch.setenv("ETL_DATABASE_URL", f"sqlite:///{tmp_path}/db/etl.db")
    return EtlSettings.load()


def test_a_job_survives_the_wire() -> None:
    job = RunPipeline.model_validate(GOOD | {"key": ["a"]})
    assert RunPipeline.model_validate_json(job.model_dump_json()) == job


@pytest.mark.parametrize(
    "source",
    ["../x", "/etc/passwd", "a//b", "a/../b", "a\\b", "a\nb", "", "file:///etc/passwd", "https://", "http://u:p@h/"],
)
def test_a_source_outside_of_storage_is_refused(source: str) -> None:
    with pytest.raises(ValidationError):
        RunPipeline.model_validate(GOOD | {"source": source})


@pytest.mark.parametrize("source", ["a.csv", "in/2026/ü.csv", "https://data.example.com/a.csv?x=1"])
def test_keys_and_urls_are_sources(source: str) -> None:
    assert RunPipeline.model_validate(GOOD | {"source": source}).source == source


@pytest.mark.parametrize("table", ["jobkit_inbox", "sqlite_master", "pg_class", 'a"b', "a;b", "A", "_a", "", "a" * 64])
def test_a_table_name_that_is_not_ours_to_write_is_refused(table: str) -> None:
    with pytest.raises(ValidationError, match="table"):
        RunPipeline.model_validate(GOOD | {"table": table})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"columns": []}, "at least 1 item"),
        ({"columns": [{"name": "a", "type": "text"}] * 2}, "columns: a named more than once"),
        ({"key": ["b"]}, "key: b is not among the columns"),
        ({"key": ["a", "a"]}, "names a column twice"),
        ({"columns": [{"name": "a", "type": "date", "case": "lower"}]}, "is for text only"),
        ({"mode": "upsert"}, "'append' or 'replace'"),
    ],
)
def test_a_contradictory_job_is_refused_with_the_reason(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RunPipeline.model_validate(GOOD | changes)


def test_a_column_is_read_under_its_own_name_unless_told_otherwise() -> None:
    assert Column(name="a", type="text").source == "a"
    assert Column(name="a", type="text", source_name="A b").source == "A b"


def test_opening_the_resources_makes_the_folders_and_needs_no_network(settings: EtlSettings, tmp_path: Path) -> None:
    with open_resources(settings) as resources:
        assert isinstance(resources.warehouse, SqliteWarehouse)
        assert (tmp_path / "files").is_dir()
        assert (tmp_path / "db").is_dir()


def test_hosts_are_a_list_in_one_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETL_HTTP_HOSTS", "data.example.com, Files.example.org:8443,")
    assert EtlSettings.load().http_hosts == ("data.example.com", "files.example.org:8443")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ETL_HTTP_HOSTS", "https://data.example.com"),
        ("ETL_STORAGE_URL", "file://relative/folder"),
        ("ETL_DATABASE_URL", "mysql://h/db"),
        ("ETL_DATABASE_URL", "sqlite://etl.db"),
        ("ETL_MAX_BYTES", "0"),
    ],
)
def test_a_bad_setting_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=variable):
        EtlSettings.load()


def test_the_password_of_the_database_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETL_DATABASE_URL", "postgresql://user:hidden@h/db")
    assert "hidden" not in repr(EtlSettings.load())


def test_a_postgresql_that_is_down_is_transient_and_its_password_not_shown() -> None:
    warehouse = PostgresqlWarehouse("postgresql://user:hidden@127.0.0.1:1/db", timeout=2)
    with pytest.raises(DatabaseUnavailable, match=r"PostgreSQL at 127\.0\.0\.1:1: .*Connection refused") as caught:
        warehouse.outcome("m")
    assert "hidden" not in str(caught.value)


def test_a_storage_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="ETL_STORAGE_URL"):
        ObjectFiles.at(str(tmp_path / "file" / "files"))


def test_an_upload_is_named_by_its_content(tmp_path: Path) -> None:
    files = ObjectFiles.at(str(tmp_path / "files"))
    (tmp_path / "a").write_bytes(b"content")
    key = files.upload(tmp_path / "a", folder="runs/r", name="rows.parquet")
    assert key == files.upload(tmp_path / "a", folder="runs/r", name="rows.parquet")
    (tmp_path / "a").write_bytes(b"other")
    assert key != files.upload(tmp_path / "a", folder="runs/r", name="rows.parquet")
    files.download(key, tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"content"


def test_a_key_out_of_the_storage_finds_nothing(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    files = ObjectFiles.at(str(tmp_path / "files"))
    with pytest.raises(SourceMissing):
        files.download("../secret", tmp_path / "b")


def test_a_local_disk_that_cannot_be_written_is_transient(tmp_path: Path) -> None:
    files = ObjectFiles.at(str(tmp_path / "files"))
    (tmp_path / "a").write_bytes(b"content")
    key = files.upload(tmp_path / "a", folder="r", name="a.csv")
    with pytest.raises(DiskUnavailable):
        files.download(key, tmp_path / "no" / "folder" / "b")
