"""Settings from the environment: typed, with units and reasons, and refused when they are unsafe together."""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Literal, Self
from urllib.parse import SplitResult, parse_qs, urlsplit

import pika
from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from jobkit.errors import SettingsError

#: What the tracked ``.env`` holds in place of secrets. It works at once on a laptop and nowhere else.
DEFAULT_SECRET = "changethis"  # noqa: S105  a placeholder to be refused, not a password
_KNOWN_SECRETS = {DEFAULT_SECRET, "guest"}


#: What a process exits with when only a person can help (sysexits.h: EX_CONFIG).
EXIT_MISCONFIGURED = 78


@contextmanager
def exit_if_misconfigured() -> Iterator[None]:
    """Turn a ``SettingsError`` into its lines on standard error and exit status 78, for a process's main function."""
    try:
        yield
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        sys.stderr.flush()
        raise SystemExit(EXIT_MISCONFIGURED) from None


class EnvironmentSettings(BaseSettings):
    """Base of all settings: reads its fields from the environment and names the variable in each complaint."""

    # An error that shows its input would show passwords.
    model_config = SettingsConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    @classmethod
    def load(cls) -> Self:
        """Read the environment.

        Raises:
            SettingsError: one line for each variable that is missing, malformed or unsafe.
        """
        try:
            return cls()
        except ValidationError as error:
            raise SettingsError("\n".join(cls._complaint(e) for e in error.errors())) from None

    @classmethod
    def variable(cls, field: str) -> str:
        """The name of the environment variable that sets ``field``."""
        alias = cls.model_fields[field].validation_alias if field in cls.model_fields else None
        if isinstance(alias, AliasChoices):
            return str(alias.choices[0])
        return f"{cls.model_config.get('env_prefix') or ''}{field}".upper()

    def default_secrets(self) -> list[str]:
        """The variables whose password is a default that everybody knows."""
        return [self.variable(name) for name in type(self).model_fields if _has_default_secret(getattr(self, name))]

    @classmethod
    def _complaint(cls, error: ErrorDetails) -> str:
        text = error["msg"].removeprefix("Value error, ")
        if not error["loc"]:
            return text
        field = str(error["loc"][0])
        return f"{cls.variable(field) if field in cls.model_fields else field.upper()}: {text}"


def _has_default_secret(value: object) -> bool:
    text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
    passwords = {text, *(urlsplit(part).password for part in text.split(",") if "://" in part)}
    return not _KNOWN_SECRETS.isdisjoint(passwords)


class ServiceSettings(EnvironmentSettings):
    """What every service is told beside its own settings; a service sets the prefix (``EMAIL_PROCESSES``)."""

    processes: int = Field(2, ge=1, le=64, description="Worker processes. One per core for work that needs the CPU.")
    threads: int = Field(8, ge=1, le=256, description="Threads per process. More than one only helps work that waits.")
    prefetch: int = Field(
        0, ge=0, le=2000, description="Messages held per process and queue; 0 takes two per thread. 1 suits long jobs."
    )
    stop_grace_seconds: int = Field(
        60, ge=5, le=7200, description="Seconds from SIGTERM to SIGKILL, as the container's stop grace says."
    )
    stop_limit_seconds: int | None = Field(
        None,
        ge=0,
        le=7200,
        description="Seconds from SIGTERM until a job is interrupted, to begin anew elsewhere. Not set: jobs must fit "
        "into the stop grace.",
    )


class PlatformSettings(EnvironmentSettings):
    """What all services share: broker, store, telemetry and the limits of their guarantees."""

    model_config = SettingsConfigDict(env_prefix="JOBKIT_", extra="ignore", frozen=True, populate_by_name=True)

    environment: Literal["development", "test", "staging", "production"] = Field(
        "development", description="Outside development and test, default secrets are refused."
    )
    broker_url: str = Field(
        "amqp://guest:guest@127.0.0.1:5672/%2F",
        repr=False,
        description="RabbitMQ: amqp:// or amqps://, several nodes separated by commas.",
    )
    store_url: str = Field(
        "redis://127.0.0.1:6379/0", repr=False, description="The job records: redis:// or rediss://."
    )
    heartbeat_seconds: int = Field(
        30, ge=5, le=600, description="Seconds after which a silent broker connection counts as dead."
    )
    connect_timeout_seconds: float = Field(5, gt=0, le=60, description="Seconds for one attempt to reach a broker.")
    send_timeout_seconds: float = Field(
        10, gt=0, le=300, description="Seconds that a send waits for the broker's confirm before it raises."
    )
    store_timeout_seconds: float = Field(
        2,
        gt=0,
        le=60,
        description="Seconds to connect to the job store, and seconds for its answer. At most a sixth of the lease, so "
        "that it outlives a renewal that hangs.",
    )
    lease_seconds: float = Field(
        15,
        ge=1,
        le=600,
        description="Seconds after which the job of a worker that died may run elsewhere. Renewed every third of it.",
    )
    record_ttl_seconds: int = Field(
        86_400, ge=60, le=31_536_000, description="Seconds that the record of a finished job answers its duplicates."
    )
    max_crashes: int = Field(
        3, ge=1, le=100, description="Workers that one job may take down before it is dead-lettered as poison."
    )
    max_message_bytes: int = Field(
        1_048_576,
        ge=1024,
        # RabbitMQ 4 takes 16 MiB and closes the channel on more (406), each time that it is sent. The copy that runs
        # again is a little larger than what came, and a consumer accepts twice this limit.
        le=8_000_000,
        description="Larger messages are refused at the sender, at most 8,000,000: RabbitMQ 4 takes 16 MiB, and a "
        "consumer twice the limit.",
    )
    rollout_seconds: int = Field(
        3600,
        ge=0,
        le=604_800,
        description="Seconds that a message waits for a worker with its newer contract or its actor before it is dead.",
    )
    longest_retry_after_seconds: int = Field(
        3600, ge=1, le=604_800, description="The longest wait that a failure may ask for by its `retry_after`."
    )
    stuck_seconds: int = Field(
        60,
        ge=6,
        le=3600,
        description="Seconds after its interrupt until a job that has not ended makes its worker process be replaced.",
    )
    health_folder: Path | None = Field(
        None, description="Each process keeps a fresh file in it, which `jobkit health` looks at."
    )
    health_stall_seconds: float = Field(
        60,
        gt=0,
        le=3600,
        description="Seconds after which a worker is unhealthy that is not subscribed though the broker answers, or "
        "takes no message though some are ready and a thread is free.",
    )
    misconfigured_status: int = Field(
        EXIT_MISCONFIGURED,
        ge=0,
        le=125,
        description="Exit status of `jobkit worker` and `jobkit scheduler` when only a person can help. 0 suits "
        "Docker, whose `on-failure` would restart any other status for ever.",
    )
    log_format: Literal["json", "console"] = Field("json", description="json for machines, console for people.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="The least level that is logged."
    )
    otlp_endpoint: str | None = Field(
        None,
        validation_alias=AliasChoices("OTEL_EXPORTER_OTLP_ENDPOINT", "otlp_endpoint"),
        description="Where traces and metrics go (OTLP over HTTP). Telemetry is off without it.",
    )
    sentry_dsn: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("SENTRY_DSN", "sentry_dsn"),
        description="Where jobs that died are reported. Off without it.",
    )

    @field_validator("broker_url")
    @classmethod
    def _broker_urls_are_amqp(cls, value: str) -> str:
        for url in value.split(","):
            parts = urlsplit(url.strip())
            if parts.scheme not in {"amqp", "amqps"} or not parts.hostname or not _has_usable_port(parts):
                raise ValueError("must be amqp://user:password@host:port/vhost (or amqps://), several joined by commas")
            _refuse_what_cannot_be_built(partial(pika.URLParameters, url.strip()))
        return value

    @field_validator("store_url")
    @classmethod
    def _store_url_is_redis(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in {"redis", "rediss", "unix"} or not _has_usable_port(parts):
            raise ValueError("must be redis://host:port/database (or rediss://, unix://)")
        limits = {"socket_timeout", "socket_connect_timeout"} & parse_qs(parts.query).keys()
        with suppress(ModuleNotFoundError):  # jobkit[producer] comes without: a producer reads no records
            from redis import ConnectionPool

            _refuse_what_cannot_be_built(lambda: ConnectionPool.from_url(value).make_connection())
        if limits:
            raise ValueError(f"{', '.join(sorted(limits))} in its query: set JOBKIT_STORE_TIMEOUT_SECONDS instead")
        return value

    @field_validator("health_folder", "otlp_endpoint", "sentry_dsn", mode="before")
    @classmethod
    def _empty_means_off(cls, value: object) -> object:
        return None if value == "" else value

    @model_validator(mode="after")
    def _a_lease_outlives_a_renewal_that_hangs(self) -> Self:
        # Renewed a third of the lease after the last time. A call that hangs takes two time-outs at most, one to
        # connect and one for the answer; the next renewal, another third later at the latest, must still come in time:
        # L/3 + 2T + L/3 <= L.
        if self.store_timeout_seconds * 6 > self.lease_seconds:
            raise ValueError(
                f"{self.variable('store_timeout_seconds')}: {self.store_timeout_seconds:g} s is more than a sixth of "
                f"{self.variable('lease_seconds')} ({self.lease_seconds:g} s): all leases of a worker would be over "
                "before a renewal that hangs is repeated. Lower the first or raise the second"
            )
        return self

    @model_validator(mode="after")
    def _default_secrets_stay_in_development(self) -> Self:
        if not self.allows_default_secrets and self.default_secrets():
            names = ", ".join(self.default_secrets())
            raise ValueError(f"{names}: a default password that everybody knows; set one for {self.environment}")
        return self

    @property
    def allows_default_secrets(self) -> bool:
        """Whether this is a place where a known password does no harm."""
        return self.environment in {"development", "test"}

    @property
    def broker_urls(self) -> tuple[str, ...]:
        """The broker's nodes, in the order in which they are tried."""
        return tuple(url.strip() for url in self.broker_url.split(","))


def _has_usable_port(url: SplitResult) -> bool:
    try:
        return url.port != 0  # reading it raises what is wrong with it
    except ValueError:
        return False


def _refuse_what_cannot_be_built(build: Callable[[], object]) -> None:
    """Raise ``ValueError`` in one line for a URL that its library does not take; nothing connects here."""
    try:
        build()
    except Exception as error:  # what they raise for a bad query is of many types, and documented nowhere
        unknown = re.search(r"unexpected keyword argument ('\w+')", str(error))
        text = f"unknown option {unknown[1]}" if unknown else str(error).partition("\n")[0] or type(error).__name__
        raise ValueError(f"its options cannot be used: {text}") from None


def load_platform() -> PlatformSettings:
    """Read the settings that all services share from the environment; raises ``SettingsError``."""
    return PlatformSettings.load()
