"""``jobkit health``: the container's health check."""

from pathlib import Path

import typer

from jobkit.middleware.sign_of_life import complaints, remarks


def check(folder: Path | None) -> None:
    """Exit with 0 if all processes are healthy, else with 1 and a line for each problem; with 2 if no folder is set.

    What their work waits for is told in either case: a restart would not help.
    """
    if folder is None:
        from jobkit.cli.platform import platform

        folder = platform().health_folder
    if folder is None:
        typer.echo("JOBKIT_HEALTH_FOLDER: is not set, so the processes leave no sign of life", err=True)
        raise typer.Exit(2)
    found = complaints(folder)
    for line in (*found, *remarks(folder)):
        typer.echo(line, err=True)
    raise typer.Exit(1 if found else 0)
