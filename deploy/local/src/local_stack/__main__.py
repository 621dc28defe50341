"""The backing services from the command line: ``python -m local_stack install | up | down | status | run``."""

import argparse
import asyncio
import sys
from pathlib import Path

from local_stack import backing, foreground, packages, servers
from local_stack.commands import Commands
from local_stack.errors import LocalStackError
from local_stack.grace import grace_seconds
from local_stack.procfile import programs_environment, read_procfile


def main() -> int:
    """Run one command; the exit status is 0 if it did what it should, 1 if not."""
    parser = argparse.ArgumentParser(prog="local_stack", description=__doc__)
    parser.add_argument("command", choices=("install", "up", "down", "status", "run"))
    parser.add_argument("--folder", type=Path, default=Path("var/local"), help="where private nodes keep their files")
    parser.add_argument("--compose", type=Path, default=Path("deploy/compose.yaml"), help="for a Docker engine")
    parser.add_argument("--procfile", type=Path, default=Path("deploy/Procfile"), help="what `run` runs")
    options = parser.parse_args()
    try:
        if options.command == "install":
            packages.ensure(servers.SERVERS, say=_say)
            return 0
        commands = Commands(options.folder, options.compose, backing.chosen(), say=_say)
        if options.command == "run":
            return _run(options.procfile, commands.environment_file)
        if options.command == "up":
            commands.up()
            return 0
        if options.command == "down":
            commands.down()
            return 0
        return 0 if commands.status() else 1
    except LocalStackError as error:
        sys.stderr.write(f"local_stack {options.command}: {error}\n")
        return 1


def _run(procfile: Path, environment: Path) -> int:
    programs = read_procfile(procfile)
    variables = programs_environment(environment)
    return asyncio.run(foreground.run(programs, variables, say=_say, grace_seconds=grace_seconds(variables)))


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()  # what follows may take minutes


if __name__ == "__main__":
    sys.exit(main())
