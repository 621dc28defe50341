"""What the adapters say when something fails: one line, no secrets, whatever the driver said."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import adbc_driver_manager
import httpx
import pytest

from etl_service.actors import WAREHOUSE
from etl_service.adapters.postgresql import PostgresqlWarehouse
from etl_service.adapters.sqlite import SqliteWarehouse
from etl_service.adapters.web import AllowedHosts
from etl_service.errors import DatabaseDown, DatabaseRefuses, DatabaseUnavailable, TableMismatch
from jobkit.errors import JobkitError, PermanentError, TransientError


def answer(status: int, **headers: str) -> Callable[[httpx.Request], httpx.Response]:
    return lambda _: httpx.Response(status, headers=headers, content=b"0123456789")


def breaks(request: httpx.Request) -> httpx.Response:
    raise httpx.ReadTimeout("slow", request=request)


@pytest.mark.parametrize(
    "handler",
    [
        answer(200),
        answer(404),
        answer(503),
        answer(302, location="https://u:s3cret@data.example.org/a.csv?sig=s3cret"),
        breaks,
    ],
)
def test_an_error_names_the_page_and_not_its_signature(
    handler: Callable[[httpx.Request], httpx.Response], tmp_path: Path
) -> None:
    connect = partial(httpx.Client, transport=httpx.MockTransport(handler))
    with pytest.raises(JobkitError) as error:
        AllowedHosts(connect, ["data.example.org"]).download(
            "https://u:s3cret@data.example.org/a.csv?sig=s3cret", tmp_path / "x", limit=5
        )
    assert "https://data.example.org/a.csv " in str(error.value)
    assert "s3cret" not in str(error.value)


def test_a_source_that_is_no_url_is_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(JobkitError) as error:
        AllowedHosts(httpx.Client, ["data.example.org"]).download(
            "https://u:s3cret@data.example.org:port/?sig=s3cret", tmp_path / "x", limit=5
        )
    assert "is not a URL" in str(error.value)
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize("text", ["", "\n", "ERROR:", "ERROR:  \n"])
def test_an_error_of_a_database_without_a_text_is_explained_all_the_same(text: str, tmp_path: Path) -> None:
    error = adbc_driver_manager.OperationalError(text, status_code=adbc_driver_manager.AdbcStatusCode.IO)
    postgresql = PostgresqlWarehouse("postgresql://db.example.org/etl", timeout=5).explain(error)
    assert isinstance(postgresql, DatabaseUnavailable)
    assert str(postgresql) == "PostgreSQL at db.example.org:5432: OperationalError"
    assert isinstance(SqliteWarehouse(tmp_path / "x.db", timeout=5).explain(error), DatabaseUnavailable)


PG_TEXT = "IO: [libpq] Failed to execute: ERROR:  in the words of the database\nDETAIL:  more"


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("", DatabaseDown),  # the connection is lost
        ("08006", DatabaseDown),
        ("28P01", DatabaseDown),
        ("25006", DatabaseDown),
        ("53100", DatabaseDown),
        ("53300", DatabaseDown),
        ("57P01", DatabaseDown),
        ("57P03", DatabaseDown),
        ("58030", DatabaseDown),
        ("40P01", DatabaseUnavailable),
        ("40001", DatabaseUnavailable),
        ("55P03", DatabaseUnavailable),
        ("55006", DatabaseUnavailable),
        ("55000", DatabaseUnavailable),
        ("57014", DatabaseUnavailable),
        ("21000", TableMismatch),
        ("22003", TableMismatch),
        ("23505", TableMismatch),
        ("42501", TableMismatch),
        ("42804", TableMismatch),
        ("0A000", DatabaseRefuses),
        ("25P02", DatabaseRefuses),
        ("3D000", DatabaseRefuses),
        ("54011", DatabaseRefuses),
        ("P0001", DatabaseRefuses),
        ("XX000", DatabaseRefuses),
    ],
)
def test_what_postgresql_answers_is_waited_out_only_if_it_passes(state: str, kind: type[JobkitError]) -> None:
    error = adbc_driver_manager.OperationalError(
        PG_TEXT, status_code=adbc_driver_manager.AdbcStatusCode.IO, sqlstate=state or None
    )
    explained = PostgresqlWarehouse("postgresql://db.example.org/etl", timeout=5).explain(error)
    assert type(explained) is kind
    assert "in the words of the database" in str(explained)
    assert isinstance(explained, PermanentError) != isinstance(explained, TransientError)
    assert WAREHOUSE.trips(explained) == (kind is DatabaseDown)


def test_what_the_driver_cannot_do_is_permanent() -> None:
    error = adbc_driver_manager.OperationalError(
        "no such type", status_code=adbc_driver_manager.AdbcStatusCode.NOT_IMPLEMENTED
    )
    explained = PostgresqlWarehouse("postgresql://db.example.org/etl", timeout=5).explain(error)
    assert isinstance(explained, DatabaseRefuses)


STEP = "IO: Failed to step query: "
PREPARE = "INVALID_ARGUMENT: [SQLite] Failed to prepare query: "


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (STEP + "database is locked", DatabaseUnavailable),
        (STEP + "database table is locked: people", DatabaseUnavailable),
        (STEP + "database or disk is full", DatabaseDown),
        (STEP + "disk I/O error", DatabaseDown),
        ("IO: failed to open '/no/x.db': unable to open database file", DatabaseDown),
        (STEP + "datatype mismatch", TableMismatch),
        (PREPARE + "no such column: a", TableMismatch),
        (PREPARE + "cannot modify v because it is a view", TableMismatch),
        (PREPARE + "file is not a database", DatabaseRefuses),
        (STEP + "attempt to write a readonly database", DatabaseRefuses),
    ],
)
def test_what_sqlite_answers_is_waited_out_only_if_it_passes(
    text: str, kind: type[JobkitError], tmp_path: Path
) -> None:
    error = adbc_driver_manager.OperationalError(text, status_code=adbc_driver_manager.AdbcStatusCode.IO)
    explained = SqliteWarehouse(tmp_path / "x.db", timeout=5).explain(error)
    assert type(explained) is kind
    assert text.rpartition("query: ")[2].rpartition("': ")[2] in str(explained)
    assert WAREHOUSE.trips(explained) == (kind is DatabaseDown)
