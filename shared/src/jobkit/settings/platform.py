"""What all services share: broker, store, telemetry and the limits of their guarantees."""

import re
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import AliasChoices, Field, SecretStr, field_validator, model_validator

from jobkit.addresses import endpoint, store
from jobkit.settings.broker import BrokerSettings
from jobkit.settings.environment import DEVELOPMENT_ONLY
from jobkit.settings.exits import EXIT_MISCONFIGURED

#: No colon, which ends it in a key, and nothing that a pattern of keys could take for another sign.
_NAMESPACE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class PlatformSettings(BrokerSettings):
    """What all services share: broker, store, telemetry and the limits of their guarantees."""

    store_url: str = Field(
        "redis://127.0.0.1:6379/0",
        repr=False,
        json_schema_extra=DEVELOPMENT_ONLY,
        description="The job records: redis:// or rediss://, without cluster mode.",
    )
    namespace: str = Field(
        "",
        description="Begins all keys in the job store, so that environments can share one Redis: letters, digits, `_`, "
        "`.` and `-`. The same for all workers, schedulers and commands of an environment.",
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
        description="Seconds that a lease lasts without renewal. Workers renew every third of it. Jobs of a worker "
        "that is lost with its supervisor or machine wait for it; those of a worker process that dies alone do not.",
    )
    record_ttl_seconds: int = Field(
        86_400, ge=60, le=31_536_000, description="Seconds that the record of a finished job answers its duplicates."
    )
    result_ttl_seconds: int = Field(
        3600,
        ge=0,
        le=31_536_000,
        description="Seconds that the result of a done job is kept, and what it has reported. At most as long as the "
        "record.",
    )
    keep_done_records: bool = Field(
        False,
        description="Keep the record of each done job beside its mark, so that workers can go back to version 0.1. "
        "Takes about 450 bytes for each.",
    )
    max_crashes: int = Field(
        3, ge=1, le=100, description="Workers that one job may take down before it is dead-lettered as poison."
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

    @field_validator("store_url")
    @classmethod
    def _store_url_is_usable(cls, value: str) -> str:
        return store.store_url(value)

    @field_validator("namespace")
    @classmethod
    def _namespace_is_a_word(cls, value: str) -> str:
        if value and not _NAMESPACE.fullmatch(value):
            raise ValueError(f"{value[:80]!r} must be 1 to 64 letters, digits, `_`, `.` and `-`, the first no sign")
        return value

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

    @property
    def traces_endpoint(self) -> str | None:
        """Where traces go, with the path; None if nowhere."""
        return self.otlp_traces_endpoint or (self.otlp_endpoint and f"{self.otlp_endpoint}/v1/traces")

    @property
    def metrics_endpoint(self) -> str | None:
        """Where metrics go, with the path; None if nowhere."""
        return self.otlp_metrics_endpoint or (self.otlp_endpoint and f"{self.otlp_endpoint}/v1/metrics")


def load_platform() -> PlatformSettings:
    """Read the settings that all services share from the environment; raises ``SettingsError``."""
    return PlatformSettings.load()
