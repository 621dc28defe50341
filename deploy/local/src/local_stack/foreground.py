"""Several programs in the foreground of one terminal: started together, ended together."""

import asyncio
import os
import shlex
import signal
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from local_stack.errors import LocalStackError

LINE_BYTES = 1_048_576  #: The longest line that is shown whole; a log line may hold a traceback.

Say = Callable[[str], object]


@dataclass(frozen=True)
class Program:
    """One line of a Procfile: ``name: command``."""

    name: str
    command: tuple[str, ...]


def read_procfile(file: Path) -> list[Program]:
    """Return the programs of a Procfile; empty lines and those that begin with ``#`` do not count.

    Raises:
        LocalStackError: the file is missing, or a line is not ``name: command``.
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
    return programs


def read_environment(file: Path) -> dict[str, str]:
    """Return the variables that `local_stack.stack.write_environment` wrote; none if there is no such file."""
    lines = file.read_text().splitlines() if file.exists() else []
    pairs = (line.partition("=") for line in lines)
    return {name: "".join(shlex.split(value)) for name, _, value in pairs}


async def run(programs: list[Program], environment: Mapping[str, str], *, say: Say, grace_seconds: float) -> int:
    """Run programs until SIGINT or SIGTERM, or until one of them ends; then end the others.

    Args:
        programs: what to run, each in a session of its own so that Ctrl-C reaches them through us alone.
        environment: all of their variables.
        say: receives each line of output with the program's name before it.
        grace_seconds: from SIGTERM to SIGKILL.

    Returns:
        The exit status: 0 after a signal, 1 if a program ended by itself.
    """
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    width = max(len(program.name) for program in programs)
    started: list[tuple[Program, Process]] = []
    ended: list[asyncio.Task[int]] = []
    try:
        for program in programs:
            process = await _start(program, environment)
            started.append((program, process))
            ended.append(asyncio.create_task(_show(process, f"{program.name:{width}} | ", say)))
        signalled = asyncio.create_task(stop.wait())
        await asyncio.wait([signalled, *ended], return_when=asyncio.FIRST_COMPLETED)
        signalled.cancel()
        early = [(p.name, task.result()) for (p, _), task in zip(started, ended, strict=True) if task.done()]
        if stop.is_set():
            return 0
        for name, status in early:
            say(f"{name} ended with status {status}, so the others are ended too")
        return 1
    finally:
        await _end([process for _, process in started], ended, grace_seconds)


async def _start(program: Program, environment: Mapping[str, str]) -> Process:
    try:
        return await asyncio.create_subprocess_exec(
            *program.command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
            env=environment,
            start_new_session=True,
            limit=LINE_BYTES,
        )
    except FileNotFoundError:
        raise LocalStackError(f"{program.name}: there is no program {program.command[0]}; run: make setup") from None


async def _show(process: Process, prefix: str, say: Say) -> int:
    assert process.stdout is not None  # noqa: S101  it was opened as a pipe
    while True:
        try:
            line = await process.stdout.readline()
        except ValueError:  # longer than LINE_BYTES: dropped, and reading goes on
            continue
        if not line:
            return await process.wait()
        say(prefix + line.decode(errors="replace").rstrip("\n"))


async def _end(processes: list[Process], ended: list[asyncio.Task[int]], grace_seconds: float) -> None:
    for process in processes:
        if process.returncode is None:
            process.terminate()
    if ended:
        await asyncio.wait(ended, timeout=grace_seconds)
    for process in processes:
        with suppress(ProcessLookupError):  # its children share the session, whether it has ended or not
            os.killpg(process.pid, signal.SIGKILL)
    for process in processes:
        await process.wait()


def programs_environment(file: Path) -> dict[str, str]:
    """Return the variables for services run from here; what the caller's own environment says comes first."""
    here = str(Path(sys.executable).parent)
    defaults = {"JOBKIT_LOG_FORMAT": "console", "PYTHONUNBUFFERED": "1"}
    path = os.pathsep.join([here, os.environ.get("PATH", os.defpath)])
    return {**defaults, **read_environment(file), **os.environ, "PATH": path}
