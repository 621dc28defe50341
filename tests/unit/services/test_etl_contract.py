from pathlib import Path

import pytest
from pydantic import ValidationError

from etl_service.adapters.files import ObjectFiles
from etl_service.adapters.postgresql import PostgresqlWarehouse
from etl_service.adapters.resources import open_resources
from etl_service.adapters.sqlite import SqliteWarehouse
from etl_service.errors import DatabaseUnavailable, DiskUnavailable, SourceMissing
from etl_service.settings import EtlSettings
from jobkit.contracts.etl import Column, LoadTable, RunPipeline, TransformTable
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


@pytest.mark.parametrize(
    "table",
    ["jobkit_inbox", "JOBKIT_INBOX", "sqlite_master", "pg_class", 'a"b', "a;b", " a", "1a", "", "a" * 64, "ä" * 32],
)
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
        ({"columns": [{"name": "_row", "type": "text"}]}, "the service's own name"),
        ({"columns": [{"name": "a", "type": "decimal"}]}, "write decimal"),
        ({"columns": [{"name": "a", "type": "decimal(2, 3)"}]}, "write decimal"),
        ({"columns": [{"name": "a", "type": "text", "scale": 2}]}, "for decimal only"),
        ({"columns": [{"name": "a", "type": "text", "format": "%Y-%m-%d"}]}, "for date and timestamp only"),
        ({"columns": [{"name": "a", "type": "date", "format": "%d.%m"}]}, "needs a year, a month and a day"),
        ({"columns": [{"name": "a", "type": "date", "format": "%Y-%m-%d %H"}]}, "has no time"),
        ({"columns": [{"name": "a", "type": "timestamp", "format": "%Y-%m-%d %I"}]}, "%I and %p together"),
        ({"columns": [{"name": "a", "type": "timestamp", "format": "%Y-%m-%d %q"}]}, "unknown directive %q"),
        ({"columns": [{"name": "a", "type": "timestamp", "timezone": "Nowhere"}]}, "not a time zone"),
        ({"columns": [{"name": "a", "type": "date", "timezone": "UTC"}]}, "for timestamp only"),
        ({"max_rejected": 1.5}, "share from 0.0 to 1.0"),
        ({"max_rejected": -1}, "greater than or equal to 0"),
        ({"encoding": "base64"}, "not the encoding of a text"),
        ({"encoding": "idna"}, "not the encoding of a file"),
        ({"delimiter": '"'}, "delimiter"),
        ({"decimal_mark": ",", "thousands_mark": ","}, "are the same"),
    ],
)
def test_a_contradictory_job_is_refused_with_the_reason(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RunPipeline.model_validate(GOOD | changes)


@pytest.mark.parametrize("name", ["userName", "order", "_id", "Größe", "Order ID", "a-b", "a$1"])
def test_names_of_tables_that_others_made_can_be_used(name: str) -> None:
    job = RunPipeline.model_validate(GOOD | {"table": name, "columns": [{"name": name, "type": "text"}]})
    assert (job.table, job.columns[0].name) == (name, name)


@pytest.mark.parametrize(("given", "kept"), [(1, 1), (1.0, 1.0), (0, 0), (0.25, 0.25)])
def test_a_number_and_a_share_of_rejects_stay_what_they_are_on_the_wire(given: float, kept: float) -> None:
    job = RunPipeline.model_validate_json(RunPipeline.model_validate(GOOD | {"max_rejected": given}).model_dump_json())
    assert (job.max_rejected, type(job.max_rejected)) == (kept, type(kept))


def test_a_decimal_is_declared_in_short() -> None:
    short = Column.model_validate({"name": "a", "type": "decimal(12, 2)"})
    assert short == Column(name="a", type="decimal", precision=12, scale=2)


def test_a_job_from_before_these_options_runs_as_it_did() -> None:
    columns = [{"name": "a", "type": "text", "source_name": None, "required": False, "trim": True, "case": "keep"}]
    old = {"table": "t", "columns": columns, "key": [], "mode": "append", "run_id": "r"}
    assert TransformTable.model_validate(old | {"extract": "e", "format": "csv"}).missing is None
    assert not LoadTable.model_validate(old | {"rows": "x", "rejects": None, "rows_rejected": 0}).allow_empty


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
