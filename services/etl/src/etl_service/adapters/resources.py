"""What a worker process of this service holds open."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx

from etl_service.adapters.files import Files, ObjectFiles
from etl_service.adapters.postgresql import PostgresqlWarehouse
from etl_service.adapters.sqlite import SqliteWarehouse
from etl_service.adapters.warehouse import Warehouse
from etl_service.adapters.web import AllowedHosts, Web
from etl_service.settings import EtlSettings


@dataclass(frozen=True)
class Resources:
    """What the actors hand to the handlers."""

    files: Files
    web: Web
    warehouse: Warehouse
    max_bytes: int


@contextmanager
def open_resources(settings: EtlSettings) -> Iterator[Resources]:
    """Open what can be opened without a network; a database that is down at start is met by the job's retries.

    Raises:
        SettingsError: a local folder cannot be made or written.
    """
    files = ObjectFiles.at(settings.storage_url)
    connect = partial(httpx.Client, timeout=settings.http_timeout_seconds, headers={"User-Agent": "etl-service"})
    yield Resources(files, AllowedHosts(connect, settings.http_hosts), warehouse(settings), settings.max_bytes)


def warehouse(settings: EtlSettings) -> Warehouse:
    """The database that ``ETL_DATABASE_URL`` names."""
    url, timeout = settings.database_url.get_secret_value(), settings.database_timeout_seconds
    if url.startswith("sqlite:///"):
        return SqliteWarehouse.at(Path(url.removeprefix("sqlite:///")), timeout=timeout)
    return PostgresqlWarehouse(url, timeout=timeout)
