"""``jobkit health``: the container's health check."""

from pathlib import Path

import typer

from jobkit.middleware.health import is_healthy


def check(folder: Path | None) -> None:
    """Exit with 0 if all worker processes live, else with 1; with 2 if nobody said where they leave their signs."""
    if folder is None:
        from jobkit.cli.platform import platform

        folder = platform().health_folder
    if folder is None:
        typer.echo("JOBKIT_HEALTH_FOLDER: is not set, so the workers leave no sign of life", err=True)
        raise typer.Exit(2)
    raise typer.Exit(0 if is_healthy(folder) else 1)
