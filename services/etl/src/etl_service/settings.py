"""What the operator decides: where files and tables live, and how much a source may cost."""

import re
from typing import Annotated, ClassVar
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from jobkit.addresses.storage import storage_url
from jobkit.settings import DEVELOPMENT_ONLY, ServiceSettings

_HOST = re.compile(r"[a-z0-9.-]+(:[0-9]{1,5})?|\[[0-9a-f:]+\](:[0-9]{1,5})?")


class EtlSettings(ServiceSettings):
    """Settings of the etl service, read from ``ETL_…``."""

    model_config = SettingsConfigDict(env_prefix="ETL_", extra="ignore", frozen=True)

    preloads: ClassVar[bool] = False  # Polars starts threads when it is imported

    stop_grace_seconds: int = Field(
        default=330,
        ge=5,
        le=7200,
        description="Seconds from SIGTERM to SIGKILL, as the container's stop grace says; above the time limit of 300.",
    )
    storage_url: str = Field(
        default="var/etl",
        json_schema_extra=DEVELOPMENT_ONLY,
        description="Storage of sources, intermediate results and rejects: a folder, made if missing, file:///folder, "
        "or s3://bucket/prefix. All workers need the same one. Credentials for S3 come from the usual AWS_… variables.",
    )
    database_url: SecretStr = Field(
        default=SecretStr("sqlite:///var/etl/etl.db"),
        json_schema_extra=DEVELOPMENT_ONLY,
        description="Where tables go: sqlite:///relative, sqlite:////absolute, postgresql://user:password@host/db.",
    )
    database_timeout_seconds: float = Field(
        default=30.0,
        gt=0,
        le=240,
        description="Seconds to wait for a connection or for another load's lock; then the job is tried again later.",
    )
    max_bytes: int = Field(
        default=268_435_456,
        ge=1,
        description="Bytes of the largest source (256 MiB): it is copied to local disk while it is read.",
    )
    http_timeout_seconds: float = Field(
        default=10.0,
        gt=0,
        le=240,
        description="Seconds without a byte from a web server after which the job is tried again later.",
    )
    http_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Hosts, or host:port, that sources may come from, separated by commas. None by default, because a "
        "job that names any URL could read the internal network.",
    )

    @field_validator("storage_url")
    @classmethod
    def _storage_is_usable(cls, value: str) -> str:
        return storage_url(value, schemes=("file", "s3", "gs", "az", "memory"))

    @field_validator("database_url")
    @classmethod
    def _database_is_usable(cls, value: SecretStr) -> SecretStr:
        url = value.get_secret_value()
        if re.fullmatch(r"sqlite:///[^?#~:]+", url):
            return value
        if re.match(r"postgres(ql)?://", url):
            _check_postgresql(url)
            return value
        raise ValueError("must be sqlite:////absolute/file.db or postgresql://user:password@host/database")

    @field_validator("http_hosts", mode="before")
    @classmethod
    def _hosts_are_a_list(cls, value: object) -> object:
        if isinstance(value, str):
            value = tuple(host.strip().lower() for host in value.split(",") if host.strip())
        if isinstance(value, tuple):
            for host in value:
                if not _HOST.fullmatch(host):
                    raise ValueError(f"{host!r} is not a host: write data.example.com or data.example.com:8443")
        return value


def _check_postgresql(url: str) -> None:
    """Raise ``ValueError`` if the address is none, or names no database: PostgreSQL then takes the user's name."""
    parts = urlsplit(url)
    if "#" in url or " " in url or "@" in parts.path:
        raise ValueError("holds a character that must be percent-encoded, such as # as %23 or / as %2F")
    if not parts.path.strip("/") and "dbname=" not in parts.query:
        raise ValueError("names no database: postgresql://user:password@host/database")
