"""What everybody needs who sends: the broker, and how patient to be with it. A producer needs no more than this."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from jobkit.addresses import broker
from jobkit.settings.environment import DEVELOPMENT_ONLY, EnvironmentSettings


class BrokerSettings(EnvironmentSettings):
    """The broker, and the limits of a send."""

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
    declare: Literal["auto", "never"] = Field(
        "auto",
        description="`auto` makes queues, exchanges and bindings that are missing. `never` makes nothing, and tells "
        "what is missing: import what `jobkit definitions` prints.",
    )
    heartbeat_seconds: int = Field(
        10, ge=5, le=600, description="Seconds after which a silent broker connection counts as dead."
    )
    connect_timeout_seconds: float = Field(5, gt=0, le=60, description="Seconds for one attempt to reach a broker.")
    send_timeout_seconds: float = Field(
        10, gt=0, le=300, description="Seconds that a send waits for the broker's confirm before it raises."
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

    @field_validator("broker_url")
    @classmethod
    def _broker_urls_are_usable(cls, value: str) -> str:
        return ",".join(broker.broker_urls(value))

    @model_validator(mode="after")
    def _defaults_stay_in_development(self) -> Self:
        problems = [] if self.allows_default_secrets else self.unsafe_defaults(self.environment)
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
