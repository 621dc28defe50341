"""Programs in the foreground come up together, speak with their names, and end together."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from local_stack.errors import LocalStackError
from local_stack.foreground import Program, read_environment, read_procfile, run
from local_stack.stack import write_environment


def python(name: str, code: str) -> Program:
    return Program(name, (sys.executable, "-c", code))


SLEEPS = "import time; print('up', flush=True); time.sleep(60)"


def test_a_procfile_is_read_by_its_lines(tmp_path: Path) -> None:
    file = tmp_path / "Procfile"
    file.write_text("# what runs\n\nemail: jobkit worker email\netl: run 'with space'\n")
    assert read_procfile(file) == [
        Program("email", ("jobkit", "worker", "email")),
        Program("etl", ("run", "with space")),
    ]


def test_a_line_that_names_no_command_is_named(tmp_path: Path) -> None:
    file = tmp_path / "Procfile"
    file.write_text("email: ok\nno command\n")
    with pytest.raises(LocalStackError, match=r"line 2 is not `name: command`: no command"):
        read_procfile(file)


def test_what_is_written_for_services_is_read_back(tmp_path: Path) -> None:
    variables = {"A_URL": "amqp://guest:guest@127.0.0.1:1/%2F", "B": "two words & 'quotes'"}
    write_environment(tmp_path / "environment", variables)
    assert read_environment(tmp_path / "environment") == variables


def test_one_that_ends_takes_the_others_along_and_is_named() -> None:
    said: list[str] = []
    programs = [python("long", SLEEPS), python("brief", "import sys; print('bye'); sys.exit(3)")]
    status = asyncio.run(run(programs, os.environ, say=said.append, grace_seconds=5))
    assert status == 1
    assert "brief | bye" in said
    assert said[-1] == "brief ended with status 3, so the others are ended too"


def test_an_interrupt_ends_all_and_is_no_failure() -> None:
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if len(said) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    status = asyncio.run(run([python("a", SLEEPS), python("b", SLEEPS)], os.environ, say=say, grace_seconds=5))
    assert (status, sorted(said)) == (0, ["a | up", "b | up"])


def test_one_that_ignores_the_request_is_killed() -> None:
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEPS

    def say(line: str) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    assert asyncio.run(run([python("deaf", deaf)], os.environ, say=say, grace_seconds=0.2)) == 0


def test_a_missing_program_is_named() -> None:
    with pytest.raises(LocalStackError, match="email: there is no program no-such-program"):
        asyncio.run(run([Program("email", ("no-such-program",))], os.environ, say=print, grace_seconds=1))
