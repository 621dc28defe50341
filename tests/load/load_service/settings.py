"""The settings of the benchmark's service."""

from pydantic_settings import SettingsConfigDict

from jobkit.settings import ServiceSettings


class LoadSettings(ServiceSettings):
    """Nothing of its own."""

    model_config = SettingsConfigDict(env_prefix="LOAD_", extra="ignore", frozen=True)
