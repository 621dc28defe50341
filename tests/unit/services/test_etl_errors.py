"""What the adapters say when something fails: one line, no secrets, whatever the driver said."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import adbc_driver_manager
import httpx
import pytest

from etl_service.adapters.postgresql import PostgresqlWarehouse
from etl_service.adapters.sqlite import SqliteWarehouse
from etl_service.adapters.web import AllowedHosts
from etl_service.errors import DatabaseUnavailable
from jobkit.errors import JobkitError


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
