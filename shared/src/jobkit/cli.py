"""The ``jobkit`` command: run workers and the scheduler, look at jobs, schedules and dead letters."""

import importlib
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import dramatiq.cli
import pika
import typer
from rich.console import Console
from rich.table import Column, Table

from jobkit.broker.connection import ConnectionSettings
from jobkit.broker.sender import Sender
from jobkit.broker.topology import dead_letter_queue
from jobkit.deadletters import Failure
from jobkit.errors import JobkitError
from jobkit.middleware.health import is_healthy, sign_of_life
from jobkit.middleware.logs import configure_logging
from jobkit.middleware.preflight import STOP_MARGIN
from jobkit.schedule.registry import RedisSchedules
from jobkit.schedule.scheduler import Scheduler
from jobkit.settings import PlatformSettings, ServiceSettings, exit_if_misconfigured, load_platform
from jobkit.store.base import JobKey
from jobkit.store.redis import RedisStore

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

ServiceName = Annotated[str, typer.Argument(help="A service's name, as its folder is called.")]


@app.command()
def worker(
    service: ServiceName,
    queues: Annotated[list[str] | None, typer.Option("--queue", "-q", help="Only this queue; may be repeated.")] = None,
) -> None:
    """Run a service's workers with the processes, threads and stop grace of its settings.

    The same as Dramatiq's own command: dramatiq <service>_service.main:broker --processes … --threads …
    """
    with exit_if_misconfigured():
        settings = _settings_of(service).load()
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


@app.command()
def scheduler() -> None:
    """Send the jobs of all schedules that services have announced. Run two for availability."""
    platform = _platform()
    configure_logging(platform.log_format, platform.log_level)
    registry = RedisSchedules(platform.store_url, platform.store_timeout_seconds)
    sender = Sender(_connection(platform, "scheduler"), app_id="scheduler", timeout=platform.send_timeout_seconds)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if platform.health_folder:
        platform.health_folder.mkdir(parents=True, exist_ok=True)
        Scheduler(registry, sender).run(stop, alive=sign_of_life(platform.health_folder).touch)
    else:
        Scheduler(registry, sender).run(stop)
    sender.close()


@app.command()
def schedules() -> None:
    """List the schedules with their last and next ticks."""
    with _one_line_errors():
        registry = RedisSchedules(_platform().store_url)
        table = Table("schedule", "cron", "time zone", "last", "next")
        for schedule in registry.schedules():
            last, following = registry.last_tick(schedule.name), schedule.cron.next_after(datetime.now(UTC))
            ticks = [tick.strftime("%Y-%m-%d %H:%M UTC") if tick else "never" for tick in (last, following)]
            table.add_row(schedule.name, schedule.spec, schedule.timezone, *ticks)
        Console().print(table)


@app.command()
def status(
    actor: Annotated[str, typer.Argument(help="The actor, for example send_email.")],
    job_id: Annotated[str, typer.Argument(help="The job's id, as its sender got it back.")],
) -> None:
    """Show where a job stands: state, attempt, progress, result. Exit status 1 if nothing is known of it."""
    with _one_line_errors():
        record = RedisStore(_platform().store_url).record(JobKey(actor, job_id))
    if record is None:
        typer.echo(f"nothing is known of {actor} {job_id}: it has not started, or its record has expired", err=True)
        raise typer.Exit(1)
    table = Table.grid(padding=(0, 2))
    for name in ("state", "attempt", "crashes", "percent", "step", "note", "failure"):
        value = getattr(record, name)
        if value:
            table.add_row(name, str(value))
    if record.result:
        table.add_row("result", record.result.decode())
    Console().print(table)


@app.command("dead-letters")
def dead_letters(
    service: ServiceName, limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 20
) -> None:
    """List a service's dead letters, oldest first; they stay where they are."""
    with _one_line_errors():
        platform = _platform()
        table = Table("actor", _whole("job"), "reason", "attempts", "failure", title=f"dead letters of {service}")
        for properties, failure in _peek(_connection(platform, "cli"), dead_letter_queue(service), limit):
            text = f"{failure.type}: {failure.message}" if failure.type else failure.message
            name, job_id = str(properties.type or "?"), str(properties.message_id or "?")
            table.add_row(name, job_id, failure.reason, str(failure.attempts), text)
        Console().print(table)


@app.command()
def health(
    folder: Annotated[Path | None, typer.Option(help="Instead of JOBKIT_HEALTH_FOLDER.")] = None,
) -> None:
    """Exit with 0 if all worker processes of this container are alive, else with 1."""
    folder = folder or _platform().health_folder
    if folder is None:
        typer.echo("JOBKIT_HEALTH_FOLDER: is not set, so the workers leave no sign of life", err=True)
        raise typer.Exit(2)
    raise typer.Exit(0 if is_healthy(folder) else 1)


def _whole(title: str) -> Column:
    """A column that is never cut, so that what stands in it can be copied."""
    return Column(title, no_wrap=True, overflow="ignore")


def _platform() -> PlatformSettings:
    with exit_if_misconfigured():
        return load_platform()


def _settings_of(service: str) -> type[ServiceSettings]:
    try:
        module = importlib.import_module(f"{service}_service.settings")
    except ModuleNotFoundError as error:
        typer.echo(f"there is no service {service!r} here: {error}", err=True)
        raise typer.Exit(2) from None
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, ServiceSettings) and value is not ServiceSettings
    ]
    return found[0]


def _connection(platform: PlatformSettings, name: str) -> ConnectionSettings:
    return ConnectionSettings(platform.broker_urls, platform.heartbeat_seconds, platform.connect_timeout_seconds, name)


def _peek(connection: ConnectionSettings, queue: str, limit: int) -> Iterator[tuple[pika.BasicProperties, Failure]]:
    # Nothing is acked, so closing the connection puts everything back where it was.
    with connection.open() as opened:
        channel = opened.channel()
        for _ in range(limit):
            method, properties, _body = channel.basic_get(queue)
            if method is None or properties is None:
                return
            yield properties, Failure.from_headers(properties.headers, queue)


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """Say what is wrong in one line, with exit status 1, instead of a traceback."""
    try:
        yield
    except (JobkitError, pika.exceptions.AMQPError) as error:
        connection = ConnectionSettings(_platform().broker_urls)
        text = connection.describe(error) if isinstance(error, pika.exceptions.AMQPConnectionError) else str(error)
        typer.echo(text, err=True)
        raise typer.Exit(1) from None


if __name__ == "__main__":
    app()
