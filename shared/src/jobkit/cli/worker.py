"""``jobkit worker``: Dramatiq's own command, with arguments from the service's settings."""

import importlib
import sys
from collections.abc import Sequence

import dramatiq.cli
import typer

from jobkit.cli.platform import platform, prepare_health
from jobkit.middleware.preflight import STOP_MARGIN
from jobkit.settings import ServiceSettings, exit_if_misconfigured


def run(service: str, queues: Sequence[str]) -> None:
    """Run a service's workers until SIGTERM; of all queues if none is named."""
    with exit_if_misconfigured():
        settings = _settings_of(service).load()
    prepare_health(platform())
    parser = dramatiq.cli.make_argument_parser()  # type: ignore[no-untyped-call]  # Dramatiq's command has no annotations
    limit = int(settings.stop_grace_seconds - STOP_MARGIN.total_seconds() / 2) * 1000
    arguments = [
        f"{service}_service.main:broker",
        f"--processes={settings.processes}",
        f"--threads={settings.threads}",
        f"--worker-shutdown-timeout={limit}",
        *(["--queues", *queues] if queues else []),
    ]
    sys.exit(dramatiq.cli.main(parser.parse_args(arguments)))  # type: ignore[no-untyped-call]  # the same


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
