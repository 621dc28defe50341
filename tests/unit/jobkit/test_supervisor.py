"""A supervisor that cannot start a process tries again, and ends when it is told to."""

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
        deadline = time.monotonic() + 20
        while not started.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        handlers[signal.SIGTERM](signal.SIGTERM, None)

    stopper = threading.Thread(target=stop_when_started)
    stopper.start()
    assert Supervisor([*SLEEPER, str(started)], 1, before_restart=lambda: None).run() == 0
    stopper.join()
    assert started.exists()
    assert not failures
