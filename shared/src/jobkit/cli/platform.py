"""What every command starts from: the platform's settings, a connection, and errors in one line."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pika.exceptions

from jobkit.broker.connection import ConnectionSettings
from jobkit.errors import JobkitError, SettingsError, StoreUnavailable
from jobkit.middleware.sign_of_life import forget_the_dead
from jobkit.settings import PlatformSettings, exit_if_misconfigured, load_platform


def platform() -> PlatformSettings:
    """The settings in the environment; ends the process with their lines if they are wrong."""
    with exit_if_misconfigured():
        return load_platform()


def prepare_health(settings: PlatformSettings) -> None:
    """Make the folder of the health check, without the signs of processes that crashed."""
    if settings.health_folder is None:
        return
    with exit_if_misconfigured():
        try:
            settings.health_folder.mkdir(parents=True, exist_ok=True)
            forget_the_dead(settings.health_folder)
        except OSError as error:
            raise SettingsError(f"{settings.variable('health_folder')}: it cannot be written to ({error})") from None


def connection(settings: PlatformSettings, name: str) -> ConnectionSettings:
    """How to reach the broker; its management page shows ``name``."""
    return ConnectionSettings(settings.broker_urls, settings.heartbeat_seconds, settings.connect_timeout_seconds, name)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Say what is wrong in one line, with exit status 1, instead of a traceback."""
    try:
        yield
    except (JobkitError, pika.exceptions.AMQPError) as error:
        if isinstance(error, pika.exceptions.AMQPConnectionError):
            text = ConnectionSettings(platform().broker_urls).describe(error) + _hint("JOBKIT_BROKER_URL")
        elif isinstance(error, StoreUnavailable):
            text = str(error).rstrip(".") + _hint("JOBKIT_STORE_URL")
        else:
            text = getattr(error, "reply_text", "") or str(error)
        import typer  # a worker does not come here, and does without it

        typer.echo(text, err=True)
        raise typer.Exit(1) from None


def _hint(variable: str) -> str:
    if variable in os.environ:
        return ""
    return f"; {variable} is not set: after `make up`, say `set -a; . var/local/environment; set +a`"
