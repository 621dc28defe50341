"""The shop's settings."""

from pydantic_settings import SettingsConfigDict

from jobkit.settings import ServiceSettings


class ShopSettings(ServiceSettings):
    """Nothing of its own."""

    model_config = SettingsConfigDict(env_prefix="SHOP_", extra="ignore", frozen=True)
