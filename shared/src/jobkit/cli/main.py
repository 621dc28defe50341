"""Run workers and the scheduler, look at jobs, schedules and dead letters."""

# A command imports what it needs when it is called: loading the clients of RabbitMQ and Redis takes longer than asking
# them, and a container's health check needs neither.
from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its frames are cut to the width of the terminal
    help=__doc__,
)

ServiceName = Annotated[str, typer.Argument(help="A service's name, as its folder is called.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document, for programs.")]


@app.command()
def worker(
    service: ServiceName,
    queues: Annotated[list[str] | None, typer.Option("--queue", "-q", help="Only this queue; may be repeated.")] = None,
) -> None:
    """Run a service's workers as its settings say.

    With its processes, threads and stop grace; the same as Dramatiq's own command:
    dramatiq <service>_service.main:broker --processes … --threads …
    """
    from jobkit.cli.entry import run_worker

    run_worker(service, queues or [])


@app.command()
def scheduler() -> None:
    """Send the jobs of all schedules that services have announced. Run two for availability."""
    from jobkit.cli.light import load

    load()
    from jobkit.cli.scheduler import run

    run()


@app.command()
def schedules(as_json: AsJson = False) -> None:
    """List the schedules with their last and next ticks."""
    from jobkit.cli.schedules import show

    show(as_json=as_json)


@app.command()
def status(
    actor: Annotated[str, typer.Argument(help="The actor, for example send_email.")],
    job_id: Annotated[str, typer.Argument(help="The job's id, as its sender got it back.")],
    service: Annotated[str | None, typer.Option(help="Whose actor, if several services have one of that name.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show where a job stands.

    Its state, attempt, times, progress, failure and result. Exit status 1 if nothing is known of it.
    """
    from jobkit.cli.job import show

    show(actor, job_id, service=service, as_json=as_json)


breakers = typer.Typer(rich_markup_mode=None, help="List or close the circuit breakers that are open.")
app.add_typer(breakers, name="breakers")


@breakers.callback(invoke_without_command=True)
def list_breakers(context: typer.Context, as_json: AsJson = False) -> None:
    """List the circuit breakers that are open.

    With their state, since when, the next probe and the last failure.
    """
    if context.invoked_subcommand is None:
        from jobkit.cli.breakers import show

        show(as_json=as_json)


@breakers.command("close")
def close_breaker(name: Annotated[str, typer.Argument(help="The breaker, for example email/smtp.")]) -> None:
    """Close a breaker at once, without a probe.

    Exit status 1 if no open breaker has that name.
    """
    from jobkit.cli.breakers import close

    close(name)


@app.command("dead-letters")
def dead_letters(
    service: ServiceName,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="The most to show, or to send again.")] = 20,
    fingerprint: Annotated[str | None, typer.Option(help="Only those of this kind of failure.")] = None,
    again: Annotated[bool, typer.Option("--send-again", help="Send them to their queues again.")] = False,
    as_json: AsJson = False,
) -> None:
    """List a service's dead letters, oldest first.

    They stay where they are, unless they are sent again.
    """
    from jobkit.cli.dead_letters import send_again, show

    act = send_again if again else show
    act(service, limit, fingerprint, as_json=as_json)


@app.command()
def definitions(
    services: Annotated[
        list[str] | None, typer.Argument(help="Services, as their folders are called. All that are installed, if none.")
    ] = None,
    vhost: Annotated[str | None, typer.Option(help="Instead of the virtual host in JOBKIT_BROKER_URL.")] = None,
) -> None:
    """Print the queues, exchanges and bindings of services for RabbitMQ to import.

    For brokers on which workers and producers may not declare (JOBKIT_DECLARE=never):
    jobkit definitions > jobs.json; rabbitmqctl import_definitions jobs.json
    """
    from jobkit.cli.definitions import show

    show(services or [], vhost)


@app.command()
def health(
    folder: Annotated[Path | None, typer.Option(help="Instead of JOBKIT_HEALTH_FOLDER.")] = None,
) -> None:
    """Tell whether all processes of this container do their work.

    Exit status 0 if they do, else 1 and a line for each problem.
    """
    from jobkit.cli.health import check

    check(folder)


def brief_commands(lasting: Collection[str]) -> set[str]:
    """Return the names of all commands but ``lasting``."""
    typed = {info.name or getattr(info.callback, "__name__", "") for info in app.registered_commands}
    return {*typed, *(group.name for group in app.registered_groups if group.name)} - set(lasting)
