"""The backing services from the command line: ``python -m local_stack up | down | status | run``."""

import argparse
import asyncio
import sys
from pathlib import Path

from local_stack import docker, foreground, packages
from local_stack.docker import Compose
from local_stack.errors import LocalStackError
from local_stack.grace import grace_seconds
from local_stack.procfile import programs_environment, read_procfile
from local_stack.stack import Stack, write_environment


def main() -> int:
    """Run one command; the exit status is 0 if it did what it should, 1 if not."""
    parser = argparse.ArgumentParser(prog="local_stack", description=__doc__)
    parser.add_argument("command", choices=("up", "down", "status", "run"))
    parser.add_argument("--folder", type=Path, default=Path("var/local"), help="where private nodes keep their files")
    parser.add_argument("--compose", type=Path, default=Path("deploy/compose.yaml"), help="for a Docker engine")
    parser.add_argument("--procfile", type=Path, default=Path("deploy/Procfile"), help="what `run` runs")
    options = parser.parse_args()
    if options.command == "run":
        return _run(options.procfile, options.folder / "environment")
    compose = Compose(options.compose) if options.compose.exists() and docker.engine_answers() else None
    try:
        if compose is not None:
            return _with_docker(options.command, compose, options.folder)
        return _with_nodes(options.command, options.folder)
    except LocalStackError as error:
        _say(f"local_stack {options.command}: {error}", error=True)
        return 1


def _run(procfile: Path, environment: Path) -> int:
    try:
        programs = read_procfile(procfile)
        variables = programs_environment(environment)
        return asyncio.run(foreground.run(programs, variables, say=_say, grace_seconds=grace_seconds(variables)))
    except LocalStackError as error:
        _say(f"local_stack run: {error}", error=True)
        return 1


def _with_docker(command: str, compose: Compose, folder: Path) -> int:
    file = folder / "environment"
    if command == "down":
        file.unlink(missing_ok=True)
        compose.down()
        Stack(folder).down()  # of a time when no engine answered
        return 0
    if command == "up":
        folder.mkdir(parents=True, exist_ok=True)
        compose.up()
        variables = compose.environment()
        write_environment(file, variables)
        _table(variables)
        return 0
    running = compose.running()
    for service in docker.SERVICES:
        _say(f"{service:12} {'up' if service in running else 'down'}  container")
    return 0 if len(running) == len(docker.SERVICES) else 1


def _with_nodes(command: str, folder: Path) -> int:
    stack = Stack(folder)
    if command == "down":
        stack.down()
        return 0
    if command == "up":
        packages.ensure(["rabbitmq", "redis", "postgres"], say=_say)
        stack.up()
        _table(stack.environment())
        return 0
    up = [node.running and node.answers() for node in stack.nodes]
    for node, answers in zip(stack.nodes, up, strict=True):
        _say(f"{node.title:18} {'up    ' + node.url if answers else 'down'}")
    return 0 if all(up) else 1


def _table(variables: dict[str, str]) -> None:
    for name, value in variables.items():
        _say(f"{name:22} {value}")


def _say(text: str, *, error: bool = False) -> None:
    (sys.stderr if error else sys.stdout).write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
