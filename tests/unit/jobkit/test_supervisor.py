"""A supervisor that cannot start a process tries again, and ends when it is told to."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from jobkit.cli.deaths import Deaths
from jobkit.cli.starting import Running
from jobkit.cli.supervisor import Supervisor
from jobkit.errors import StoreUnavailable
from jobkit.process import Begun, Identity, shared_memory
from jobkit.store.base import Held, JobKey, Lease
from jobkit.store.memory import MemoryStore

SLEEPER = [sys.executable, "-c", "import pathlib, sys, time; pathlib.Path(sys.argv[1]).touch(); time.sleep(60)"]


@pytest.fixture
def handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[int, Any]]:
    """Where the supervisor's signal handlers go: here the signals are the test runner's."""
    found: dict[int, Any] = {}
    monkeypatch.setattr(signal, "signal", found.__setitem__)
    yield found
    found.clear()


class Told:
    """Stands for the store that is told of deaths."""

    def __init__(self) -> None:
        self.dead: list[Identity] = []

    def note(self, identity: Identity) -> None:
        self.dead.append(identity)

    def tell(self) -> None: ...


def supervise(command: list[str], told: Told | None = None) -> int:
    """Run one process of a command as a supervisor does; its exit status."""

    def start() -> tuple[Running, Identity]:
        return subprocess.Popen(command, start_new_session=True), Identity(begun=Begun(shared_memory(1)))

    deaths: Any = told or Told()
    return Supervisor(start, 1, deaths, before_restart=lambda: None).run()


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
    assert supervise([*SLEEPER, str(started)]) == 0
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
    assert supervise(command) == 0
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
    assert supervise(command) == 1
    stopper.join()
    program = int((tmp_path / "started.child").read_text())
    os.kill(program, 0)  # what a job has started does not end by the signal
    os.kill(program, signal.SIGKILL)


def test_a_process_that_was_killed_is_declared_dead_at_once_and_another_starts(
    tmp_path: Path, handlers: dict[int, Any]
) -> None:
    pids, told = tmp_path / "pids", Told()
    code = (
        "import os, sys, time\nwith open(sys.argv[1], 'a') as file: file.write(f'{os.getpid()}\\n')\ntime.sleep(60)\n"
    )

    def started() -> list[int]:
        return [int(line) for line in pids.read_text().splitlines()] if pids.exists() else []

    def kill_the_first() -> None:
        until(lambda: bool(started()))
        os.kill(started()[0], signal.SIGKILL)
        until(lambda: len(started()) == 2)
        assert len(told.dead) == 1
        handlers[signal.SIGTERM](signal.SIGTERM, None)

    killer = threading.Thread(target=kill_the_first)
    killer.start()
    assert supervise([sys.executable, "-c", code, str(pids)], told) == 0
    killer.join()
    assert len({dead.name for dead in told.dead}) == 2, "the one that ended by SIGTERM has said nothing either"
    second = told.dead[-1].begun
    assert second is not None
    assert second.deaths == 1, "it knew of the first, so that a suspect can wait"


def test_a_process_that_has_stopped_is_declared_dead_too_as_the_store_may_not_have_heard_it(
    tmp_path: Path, handlers: dict[int, Any]
) -> None:
    started, told = tmp_path / "started", Told()

    def stop_when_started() -> None:
        wait_for(started)
        handlers[signal.SIGTERM](signal.SIGTERM, None)

    stopper = threading.Thread(target=stop_when_started)
    stopper.start()
    code = "import pathlib, signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); "
    command = [sys.executable, "-c", f"{code}pathlib.Path(sys.argv[1]).touch(); time.sleep(60)", str(started)]
    assert supervise(command, told) == 0
    stopper.join()
    assert len(told.dead) == 1, "what it had claimed ahead would count a crash once its lease has run out"


@pytest.mark.parametrize(
    "failure", [StoreUnavailable("away"), OSError(24, "Too many open files")], ids=["away", "files"]
)
def test_deaths_are_told_once_the_store_is_back(failure: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobkit.cli.deaths._AGAIN", 0.0)
    store, job, away = MemoryStore(), JobKey("email", "send_email", "1"), [True]
    begun = Begun(shared_memory(1))
    dead = Identity(begun=begun)
    lease = store.acquire(job, dead.owner(), ttl=timedelta(minutes=5), sent_at=1)
    begun.note(1)

    def open_store() -> MemoryStore:
        if away:
            away.clear()
            raise failure
        return store

    deaths = Deaths("email", open_store)
    deaths.note(dead)
    deaths.tell()
    assert isinstance(store.acquire(job, "other", ttl=timedelta(minutes=5), sent_at=1), Held)
    deaths.tell()
    again = store.acquire(job, "other", ttl=timedelta(minutes=5), sent_at=1)
    assert isinstance(lease, Lease)
    assert isinstance(again, Lease)
    assert again.crashes == 1


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)


def wait_for(file: Path) -> None:
    deadline = time.monotonic() + 20
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
