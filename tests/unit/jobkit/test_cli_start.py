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

#: Loaded in place of the first large package that the command imports: it says so, and takes its time. In short sleeps:
#: the interpreter runs a handler between two instructions, and a signal that comes just before a sleep does not end it.
SLOW = """
import os, pathlib, time
pathlib.Path(os.environ["LOADING"]).touch()
for _ in range(600):
    time.sleep(0.05)
"""


@contextmanager
def loading(folder: Path, command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """The command, in the midst of its imports."""
    for name in ("typer", "pydantic"):  # a worker does without the first
        (folder / f"{name}.py").write_text(SLOW)
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
        assert process.wait(30) == 0


@pytest.mark.parametrize("command", [["worker", "email"], ["scheduler"]], ids=["worker", "scheduler"])
def test_a_signal_that_was_blocked_until_the_interpreter_had_started_is_heard(command: list[str]) -> None:
    """Process 1 of a container is started like that: the kernel would drop a signal that is not blocked."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        process = subprocess.Popen([*MODULE, *command])  # the mask is inherited, so no moment is without it
        process.send_signal(signal.SIGTERM)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    try:
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait(10)


@pytest.mark.parametrize("words", [["wroker", "email"], ["--wroker"], []], ids=["name", "option", "nothing"])
def test_a_misspelt_command_has_the_status_of_a_misconfiguration(words: list[str]) -> None:
    environment = {**os.environ, "JOBKIT_MISCONFIGURED_STATUS": "0"}
    done = subprocess.run([*MODULE, *words], env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0
    assert ("No such" in done.stderr) if words else ("Usage" in done.stdout + done.stderr)


def test_the_wrong_arguments_of_a_brief_command_keep_their_status() -> None:
    environment = {**os.environ, "JOBKIT_MISCONFIGURED_STATUS": "0"}
    for words in (["status"], ["dead-letters"], ["breakers", "close"]):
        assert subprocess.run([*MODULE, *words], env=environment, capture_output=True, check=False).returncode == 2


def test_a_command_that_is_brief_ends_as_any_other_program_does(tmp_path: Path) -> None:
    with loading(tmp_path, [*MODULE, "schedules"]) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == -signal.SIGTERM


def test_the_handler_is_set_before_anything_large_is_loaded() -> None:
    code = (
        "import sys; before = set(sys.modules); import jobkit.cli.entry\n"
        "print({'dramatiq', 'pika', 'pydantic', 'typer', 'typing'} & (set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
