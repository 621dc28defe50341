"""The post's settings."""

from pydantic_settings import SettingsConfigDict

from jobkit.settings import ServiceSettings


class PostSettings(ServiceSettings):
    """Nothing of its own."""

    model_config = SettingsConfigDict(env_prefix="POST_", extra="ignore", frozen=True)
