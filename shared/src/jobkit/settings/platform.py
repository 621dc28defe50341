"""What all services share: broker, store, telemetry and the limits of their guarantees."""

from pathlib import Path
from typing import Literal, Self

from pydantic import AliasChoices, Field, SecretStr, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from jobkit.addresses import broker, endpoint, store
from jobkit.settings.environment import DEVELOPMENT_ONLY, EnvironmentSettings
from jobkit.settings.exits import EXIT_MISCONFIGURED


class PlatformSettings(EnvironmentSettings):
    """What all services share: broker, store, telemetry and the limits of their guarantees."""

    model_config = SettingsConfigDict(env_prefix="JOBKIT_", extra="ignore", frozen=True, populate_by_name=True)

    environment: Literal["development", "test", "staging", "production"] = Field(
        "development", description="Outside development and test, default secrets and addresses are refused."
    )
    broker_url: str = Field(
        "amqp://guest:guest@127.0.0.1:5672/%2F",
        repr=False,
        json_schema_extra=DEVELOPMENT_ONLY,
        description="RabbitMQ: amqp:// or amqps://, several nodes separated by commas.",
    )
    store_url: str = Field(
        "redis://127.0.0.1:6379/0",
        repr=False,
        json_schema_extra=DEVELOPMENT_ONLY,
        description="The job records: redis:// or rediss://, without cluster mode.",
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
    management_url: SecretStr | None = Field(
        None,
        description="RabbitMQ's management API, with a user of the tag `monitoring`: http://user:password@host:15672. "
        "Workers then warn of policies that lose or delay jobs. Off without it.",
    )
    refusal_limit_seconds: float = Field(
        60,
        gt=0,
        le=86_400,
        description="Seconds that the broker or the store may refuse a running worker, for a password or a permission, "
        "before its health check fails. Its jobs wait meanwhile.",
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
        description="Where traces and metrics go (OTLP over HTTP): http://host:4318, without the path. Off without it.",
    )
    otlp_traces_endpoint: str | None = Field(
        None,
        validation_alias=AliasChoices("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "otlp_traces_endpoint"),
        description="Where traces go instead, with the path: http://host:4318/v1/traces.",
    )
    otlp_metrics_endpoint: str | None = Field(
        None,
        validation_alias=AliasChoices("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "otlp_metrics_endpoint"),
        description="Where metrics go instead, with the path: http://host:4318/v1/metrics.",
    )
    sentry_dsn: SecretStr | None = Field(
        None,
        validation_alias=AliasChoices("SENTRY_DSN", "sentry_dsn"),
        description="Where jobs that died are reported. Off without it.",
    )

    @field_validator("broker_url")
    @classmethod
    def _broker_urls_are_usable(cls, value: str) -> str:
        return ",".join(broker.broker_urls(value))

    @field_validator("store_url")
    @classmethod
    def _store_url_is_usable(cls, value: str) -> str:
        return store.store_url(value)

    @field_validator("management_url")
    @classmethod
    def _management_url_is_usable(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            endpoint.http_url(value.get_secret_value())
        return value

    @field_validator("otlp_endpoint", "otlp_traces_endpoint", "otlp_metrics_endpoint")
    @classmethod
    def _endpoint_is_usable(cls, value: str | None) -> str | None:
        return None if value is None else endpoint.http_url(value)

    @field_validator("sentry_dsn")
    @classmethod
    def _dsn_is_usable(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            endpoint.check_dsn(value.get_secret_value())
        return value

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
    def _defaults_stay_in_development(self) -> Self:
        if self.allows_default_secrets:
            return self
        unset = self.left_to_development()
        problems = [f"{name}: is not set, and {self.environment} has no default for it" for name in unset]
        if known := [name for name in self.default_secrets() if name not in unset]:
            names = ", ".join(known)
            problems.append(f"{names}: a default password that everybody knows; set one for {self.environment}")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def allows_default_secrets(self) -> bool:
        """Whether this is a place where a known password does no harm."""
        return self.environment in {"development", "test"}

    @property
    def broker_urls(self) -> tuple[str, ...]:
        """The broker's nodes, in the order in which they are tried."""
        return tuple(self.broker_url.split(","))


def load_platform() -> PlatformSettings:
    """Read the settings that all services share from the environment; raises ``SettingsError``."""
    return PlatformSettings.load()
