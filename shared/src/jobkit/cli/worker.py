"""``jobkit worker``: the worker processes of a service, as its settings say."""

import importlib
import logging
import sys
from collections.abc import Sequence
from datetime import timedelta

from jobkit.cli.deaths import Deaths
from jobkit.cli.exit_status import NOT_IMPORTED
from jobkit.cli.platform import platform, prepare_health
from jobkit.cli.preloading import preload
from jobkit.cli.starting import starts
from jobkit.cli.supervisor import Supervisor
from jobkit.cli.worker_process import Work
from jobkit.middleware.logs import configure_logging
from jobkit.middleware.shutdown import STOP_TIME, stop_limit
from jobkit.middleware.sign_of_life import forget_the_gone
from jobkit.settings import ServiceSettings, exit_if_misconfigured
from jobkit.store.redis import RedisStore

log = logging.getLogger(__name__)


def run(service: str, queues: Sequence[str]) -> None:
    """Run a service's workers until SIGTERM; of all queues if none is named."""
    with exit_if_misconfigured():
        settings = _settings_of(service).load()
    common = platform()
    prepare_health(common)
    configure_logging(common.log_format, common.log_level)
    preload(common)
    # A little after the jobs were interrupted; what does not hear that is left behind.
    shutdown_timeout = int((stop_limit(settings) + STOP_TIME) * 1000)
    work = Work(service, tuple(queues), settings.threads, shutdown_timeout)
    try:
        start = starts(work, preloads=settings.preloads)
    except ImportError:
        log.exception("the service cannot be imported")
        raise SystemExit(NOT_IMPORTED) from None

    def open_store() -> RedisStore:
        timeout, ttl = min(common.store_timeout_seconds, 1.0), timedelta(seconds=common.record_ttl_seconds)
        return RedisStore(common.store_url, ttl, timeout, common.namespace)

    def forget_who_died() -> None:
        if common.health_folder is not None:
            forget_the_gone(common.health_folder, common.max_crashes)

    deaths = Deaths(service, open_store)
    sys.exit(Supervisor(start, settings.processes, deaths, before_restart=forget_who_died).run())


def _settings_of(service: str) -> type[ServiceSettings]:
    name = f"{service}_service.settings"
    if not service.isidentifier():
        raise _refusal(f"there is no service {service!r} here: it is named as its folder in services/ is")
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name in {name, f"{service}_service"}:
            raise _refusal(f"there is no service {service!r} here: {error}") from None
        raise _refusal(f"{name} needs the module {error.name!r}, which is not installed: run make setup") from None
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, ServiceSettings) and value.__module__ == name
    ]
    if not found:
        raise _refusal(f"{name} has no settings: it needs a class that is derived from ServiceSettings")
    return found[0]


def _refusal(text: str) -> SystemExit:
    print(text, file=sys.stderr)  # noqa: T201  the one line of a command that cannot begin
    return SystemExit(2)
