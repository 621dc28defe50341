"""A supervisor that cannot start a process tries again, and ends when it is told to."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobkit.cli.supervisor import Supervisor

SLEEPER = [sys.executable, "-c", "import pathlib, sys, time; pathlib.Path(sys.argv[1]).touch(); time.sleep(60)"]


@pytest.fixture
def handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[int, Any]]:
    """Where the supervisor's signal handlers go: here the signals are the test runner's."""
    found: dict[int, Any] = {}
    monkeypatch.setattr(signal, "signal", found.__setitem__)
    yield found
    found.clear()


def test_a_process_that_cannot_be_started_is_tried_again(
    tmp_path: Path, handlers: dict[int, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    started, failures, popen = tmp_path / "started", [OSError(12, "Cannot allocate memory")], subprocess.Popen

    def start(*arguments: Any, **more: Any) -> Any:  # Any: stands for Popen
        if failures:
            raise failures.pop()
        return popen(*arguments, **more)

    monkeypatch.setattr(subprocess, "Popen", start)

    def stop_when_started() -> None:
        wait_for(started)
        handlers[signal.SIGTERM](signal.SIGTERM, None)

    stopper = threading.Thread(target=stop_when_started)
    stopper.start()
    assert Supervisor([*SLEEPER, str(started)], 1, before_restart=lambda: None).run() == 0
    stopper.join()
    assert started.exists()
    assert not failures


def test_a_process_that_was_stopped_before_it_could_take_the_signal_is_no_failure(
    tmp_path: Path, handlers: dict[int, Any]
) -> None:
    started = tmp_path / "started"

    def stop_when_started() -> None:
        wait_for(started)
        handlers[signal.SIGTERM](signal.SIGTERM, None)

    stopper = threading.Thread(target=stop_when_started)
    stopper.start()
    code = "import pathlib, signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(1)); "
    command = [sys.executable, "-c", f"{code}pathlib.Path(sys.argv[1]).touch(); time.sleep(60)", str(started)]
    assert Supervisor(command, 1, before_restart=lambda: None).run() == 0
    stopper.join()


def test_a_second_request_reaches_the_whole_group_of_a_process_and_is_its_exit_status(
    tmp_path: Path, handlers: dict[int, Any]
) -> None:
    started, told = tmp_path / "started", tmp_path / "told"
    code = (
        "import os, pathlib, signal, subprocess, sys, time\n"
        "pathlib.Path(sys.argv[1] + '.child').write_text(str(subprocess.Popen(['sleep', '60']).pid))\n"
        "signal.signal(signal.SIGTERM, lambda *_: pathlib.Path(sys.argv[2]).touch())\n"
        "signal.signal(signal.SIGURG, lambda *_: os._exit(1))\n"
        "pathlib.Path(sys.argv[1]).touch()\n"
        "time.sleep(60)\n"
    )

    def stop_twice() -> None:
        wait_for(started)
        handlers[signal.SIGTERM](signal.SIGTERM, None)
        wait_for(told)
        handlers[signal.SIGINT](signal.SIGINT, None)

    stopper = threading.Thread(target=stop_twice)
    stopper.start()
    command = [sys.executable, "-c", code, str(started), str(told)]
    assert Supervisor(command, 1, before_restart=lambda: None).run() == 1
    stopper.join()
    program = int((tmp_path / "started.child").read_text())
    os.kill(program, 0)  # what a job has started does not end by the signal
    os.kill(program, signal.SIGKILL)


def wait_for(file: Path) -> None:
    deadline = time.monotonic() + 20
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
