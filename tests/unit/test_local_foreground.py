"""Programs in the foreground come up together, speak with their names, come back, and end together."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from local_stack.environment import read_environment, write_environment
from local_stack.errors import LocalStackError
from local_stack.foreground import Restarts, run
from local_stack.procfile import Program, read_procfile


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


def outcome(
    *programs: Program, until: Callable[[str], bool] = lambda _line: False, grace_seconds: float = 5
) -> tuple[int, list[str]]:
    """Run programs with an interrupt after each line that ``until`` accepts; return exit status and lines."""
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if until(line):
            os.kill(os.getpid(), signal.SIGINT)

    restarts = Restarts(first_pause=0.01, longest_pause=0.02)
    return asyncio.run(run(programs, os.environ, say=say, grace_seconds=grace_seconds, restarts=restarts)), said


def test_one_that_is_killed_comes_back_and_the_others_stay(tmp_path: Path) -> None:
    mark = tmp_path / "killed"
    code = (
        f"import os, pathlib; p = pathlib.Path({str(mark)!r})\nif not p.exists(): p.touch(); os.kill(os.getpid(), 9)\n"
    )
    status, said = outcome(
        python("long", SLEEPS), python("brief", code + SLEEPS), until=lambda line: line == "brief | up"
    )
    assert status == 0
    assert "brief ended by SIGKILL; it is started again in 0.01 s" in said
    assert said.count("long  | up") <= 1


def test_what_a_killed_program_leaves_behind_is_gone_before_it_comes_back(tmp_path: Path) -> None:
    code = f"""
import fcntl, os, subprocess, sys, time
file = open({str(tmp_path / "lock")!r}, "a")
try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held by the child too, which inherits it
except BlockingIOError:
    print("beside it", flush=True)
else:
    if file.tell():
        print("alone", flush=True)
    else:
        print("first", file=file, flush=True)
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], pass_fds=[file.fileno()])
        os.kill(os.getpid(), 9)
time.sleep(60)
"""
    _, said = outcome(python("parent", code), until=lambda line: line.startswith("parent | "))
    assert "parent | alone" in said


def test_one_that_ends_again_and_again_ends_all_and_is_named_last() -> None:
    status, said = outcome(python("long", SLEEPS), python("brief", "import sys; print('bye'); sys.exit(3)"))
    assert status == 1
    assert said.count("brief | bye") == 5
    assert sum(line.startswith("brief ended with status 3; it is started again in 0.0") for line in said) == 4
    assert said[-1].startswith("brief ended 5 times within ")
    assert said[-1].endswith("with status 3 at last, so all programs were ended")


def test_a_program_that_is_misconfigured_is_not_started_again() -> None:
    status, said = outcome(python("long", SLEEPS), python("brief", "import sys; print('A_URL?'); sys.exit(78)"))
    assert status == 1
    assert said.count("brief | A_URL?") == 1
    assert said[-1] == "brief is misconfigured and says above what is wrong, so all programs were ended"


def test_an_interrupt_ends_all_says_what_it_waits_for_and_is_no_failure() -> None:
    up: list[str] = []

    def both_are_up(line: str) -> bool:
        up.extend([line] if line.endswith("| up") else [])
        return len(up) == 2 and line == up[-1]

    status, said = outcome(python("a", SLEEPS), python("b", SLEEPS), until=both_are_up)
    assert status == 0
    assert sorted(said[:-1]) == ["a | up", "all 2 programs run; Ctrl-C ends them", "b | up"]
    assert said[-1] == "ending a, b: waiting up to 5 s for the jobs that they run; Ctrl-C does not wait"


# Not `print` in the handler: it may interrupt the one in the main program, and Python refuses to write twice at a time.
DEAF = "import os, signal; signal.signal(signal.SIGTERM, lambda *_: os.write(1, b'no\\n')); print('up', flush=True)\n"
DEAF += "while True: signal.pause()"


def test_one_that_ignores_the_request_is_killed() -> None:
    status, said = outcome(python("deaf", DEAF), until=lambda line: line == "deaf | up", grace_seconds=0.5)
    assert (status, said[-1]) == (0, "deaf | no")


def test_a_second_interrupt_ends_the_wait_for_those_that_do_not_stop() -> None:
    started = time.monotonic()
    status, _ = outcome(python("deaf", DEAF), until=lambda line: line.startswith("deaf | "), grace_seconds=60)
    assert status == 0
    assert time.monotonic() - started < 30


def test_a_missing_program_is_named() -> None:
    with pytest.raises(LocalStackError, match="email: there is no program no-such-program"):
        asyncio.run(run([Program("email", ("no-such-program",))], os.environ, say=print, grace_seconds=1))
