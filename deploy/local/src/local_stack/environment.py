"""The file of variables by which services reach what is up."""

import shlex
from pathlib import Path


def write_environment(file: Path, variables: dict[str, str]) -> None:
    """Write variables as ``NAME=value`` lines that a shell reads too."""
    unfinished = file.with_suffix(".part")
    unfinished.write_text("".join(f"{name}={shlex.quote(value)}\n" for name, value in variables.items()))
    unfinished.replace(file)


def read_environment(file: Path) -> dict[str, str]:
    """Return the variables that `write_environment` wrote; none if there is no such file."""
    lines = file.read_text().splitlines() if file.exists() else []
    pairs = (line.partition("=") for line in lines)
    return {name: "".join(shlex.split(value)) for name, _, value in pairs}
