"""``jobkit worker``: Dramatiq's own command for each worker process, with arguments from the service's settings."""

import importlib
import sys
from collections.abc import Sequence

import typer

from jobkit.cli.platform import platform, prepare_health
from jobkit.cli.supervisor import Supervisor
from jobkit.middleware.logs import configure_logging
from jobkit.middleware.shutdown import STOP_TIME, stop_limit
from jobkit.middleware.sign_of_life import forget_the_gone
from jobkit.settings import ServiceSettings, exit_if_misconfigured


def run(service: str, queues: Sequence[str]) -> None:
    """Run a service's workers until SIGTERM; of all queues if none is named."""
    with exit_if_misconfigured():
        settings = _settings_of(service).load()
    common = platform()
    prepare_health(common)
    configure_logging(common.log_format, common.log_level)
    # A little after the jobs were interrupted; what does not hear that is left behind.
    shutdown_timeout = int((stop_limit(settings) + STOP_TIME) * 1000)
    command = [
        *(sys.executable, "-m", "jobkit.cli.worker_process", f"{service}_service.main:broker"),
        "--processes=1",
        f"--threads={settings.threads}",
        f"--worker-shutdown-timeout={shutdown_timeout}",
        "--worker-fork-timeout=1000",  # it waits for what dies while it starts, and then for what there is none of
        *(["--queues", *queues] if queues else []),
    ]

    def forget_who_died() -> None:
        if common.health_folder is not None:
            forget_the_gone(common.health_folder, common.max_crashes)

    sys.exit(Supervisor(command, settings.processes, before_restart=forget_who_died).run())


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


def _refusal(text: str) -> typer.Exit:
    typer.echo(text, err=True)
    return typer.Exit(2)
