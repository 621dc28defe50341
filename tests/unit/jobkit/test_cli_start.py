"""A SIGTERM in the first moments of a process is heard, and a command that is brief takes no signals over."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

MODULE = [sys.executable, "-m", "jobkit.cli"]
SCRIPT = [str(Path(sys.executable).with_name("jobkit"))]

#: Loaded in place of the first large package that the command imports: it says so, and takes its time.
SLOW = "import os, pathlib, time; pathlib.Path(os.environ['LOADING']).touch(); time.sleep(30)"


@contextmanager
def loading(folder: Path, command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """The command, in the midst of its imports."""
    (folder / "typer.py").write_text(SLOW)
    environment = {**os.environ, "PYTHONPATH": str(folder), "LOADING": str(folder / "loading")}
    process = subprocess.Popen(command, env=environment)
    try:
        deadline = time.monotonic() + 20
        while not (folder / "loading").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        yield process
    finally:
        process.kill()
        process.wait(10)


@pytest.mark.parametrize("start", [MODULE, SCRIPT], ids=["module", "script"])
@pytest.mark.parametrize("command", [["worker", "email"], ["scheduler"]], ids=["worker", "scheduler"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_stop_is_heard_before_the_command_is_loaded(
    tmp_path: Path, start: list[str], command: list[str], number: signal.Signals
) -> None:
    with loading(tmp_path, [*start, *command]) as process:
        process.send_signal(number)
        assert process.wait(5) == 0


def test_a_command_that_is_brief_ends_as_any_other_program_does(tmp_path: Path) -> None:
    with loading(tmp_path, [*MODULE, "schedules"]) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == -signal.SIGTERM


def test_the_handler_is_set_before_anything_large_is_loaded() -> None:
    code = (
        "import sys; before = set(sys.modules); import jobkit.cli.entry\n"
        "print({'dramatiq', 'pika', 'pydantic', 'typer', 'typing'} & (set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
