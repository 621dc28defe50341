"""Settings from the environment: typed, with units and reasons, and refused when they are unsafe together."""

from jobkit.settings.broker import BrokerSettings
from jobkit.settings.environment import DEFAULT_SECRET, DEVELOPMENT_ONLY, EnvironmentSettings
from jobkit.settings.exits import EXIT_MISCONFIGURED, exit_if_misconfigured
from jobkit.settings.platform import PlatformSettings, load_platform
from jobkit.settings.service import ServiceSettings
from jobkit.settings.unknown import unknown_variables

__all__ = [
    "DEFAULT_SECRET",
    "DEVELOPMENT_ONLY",
    "EXIT_MISCONFIGURED",
    "BrokerSettings",
    "EnvironmentSettings",
    "PlatformSettings",
    "ServiceSettings",
    "exit_if_misconfigured",
    "load_platform",
    "unknown_variables",
]
