"""Which programs run in the foreground, and with which variables."""

import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from local_stack.environment import read_environment
from local_stack.errors import LocalStackError


@dataclass(frozen=True)
class Program:
    """One line of a Procfile: ``name: command``."""

    name: str
    command: tuple[str, ...]


def read_procfile(file: Path) -> list[Program]:
    """Return the programs of a Procfile; empty lines and those that begin with ``#`` do not count.

    Raises:
        LocalStackError: the file is missing, names no program, or a line is not ``name: command``.
    """
    if not file.exists():
        raise LocalStackError(f"{file} is missing: it says which programs to run, one `name: command` per line")
    programs = []
    for number, line in enumerate(file.read_text().splitlines(), start=1):
        name, colon, command = line.partition(":")
        if not line.strip() or line.startswith("#"):
            continue
        if not colon or not command.strip():
            raise LocalStackError(f"{file}, line {number} is not `name: command`: {line}")
        programs.append(Program(name.strip(), tuple(shlex.split(command))))
    if not programs:
        raise LocalStackError(f"{file} names no program: it needs one `name: command` per line")
    return programs


def programs_environment(file: Path) -> dict[str, str]:
    """Return the variables for services run from here; what the caller's own environment says comes first."""
    here = str(Path(sys.executable).parent)
    defaults = {"JOBKIT_LOG_FORMAT": "console", "PYTHONUNBUFFERED": "1"}
    path = os.pathsep.join([here, os.environ.get("PATH", os.defpath)])
    return {**defaults, **read_environment(file), **os.environ, "PATH": path}
