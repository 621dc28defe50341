"""What a supervisor loads for its worker processes beside their service, so that they share the memory of it."""

from jobkit.middleware import telemetry_export
from jobkit.schedule.registry import RedisSchedules
from jobkit.settings import PlatformSettings
from jobkit.store.redis import RedisStore


def preload(settings: PlatformSettings) -> None:
    """Load what worker processes with these settings would load one by one; opens nothing."""
    "localhost".encode("idna")  # the socket module loads this codec for the first name of a host
    for kind in (RedisStore, RedisSchedules):  # they read their scripts, which stay
        kind(settings.store_url)
    telemetry_export.preload(settings.traces_endpoint, settings.metrics_endpoint)
    if settings.sentry_dsn is not None:
        import jobkit.middleware.sentry  # noqa: F401  for its sake alone
