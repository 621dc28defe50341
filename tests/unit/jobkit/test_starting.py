"""Worker processes are forks of a supervisor that has one thread, and commands of their own where it has more."""

import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from jobkit.cli.starting import Spawn, starts
from jobkit.cli.worker_process import Work

#: A service whose broker function does what a worker would: it says who it is, and waits for the end.
SERVICE = """
import pathlib, signal, sys
from jobkit import process
{imported}

def broker():
    identity = process.take()
    identity.begun.note(41)
    folder = pathlib.Path({folder!r})
    (folder / "working").write_text(identity.name)
    try:
        signal.pause()
    finally:
        (folder / "asked").touch()
    raise SystemExit(7)
"""

THREADED = "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()"


def in_a_supervisor(folder: Path, code: str, *, imported: str = "") -> str:
    """What a process of its own prints that has the service ``tried`` to supervise."""
    package = folder / "tried_service"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "main.py").write_text(SERVICE.format(folder=str(folder), imported=imported))
    (package / "pool.py").write_text(THREADED)
    preamble = "import logging, os, signal, time\nfrom jobkit.cli.starting import *\nlogging.basicConfig()\n"
    work = "work = Work('tried', (), 2, 1000)\n"
    done = subprocess.run(
        [sys.executable, "-c", preamble + work + code],
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout + done.stderr


def see_through(folder: Path) -> str:
    """Start one, wait for its word, stop it, and print what the supervisor knows of it."""
    return (
        "start = starts(work, preloads=True)\n"
        "child, identity = start()\n"
        f"said = Path({str(folder / 'working')!r})\n"
        "until = time.monotonic() + 30\n"
        "while not said.exists() or not said.read_text():\n"
        "    assert time.monotonic() < until and child.poll() is None\n"
        "    time.sleep(0.01)\n"
        "own = os.getsid(child.pid) == child.pid\n"
        "os.kill(child.pid, signal.SIGURG if own else signal.SIGKILL)\n"  # which does nothing
        "os.kill(child.pid, signal.SIGTERM)\n"
        "while (status := child.poll()) is None:\n"
        "    assert time.monotonic() < until\n"
        "    time.sleep(0.01)\n"
        "print(type(start).__name__, said.read_text() == identity.name, sorted(identity.begun.numbers()), status)\n"
    )


def test_a_service_that_starts_no_thread_is_imported_once_and_forked(tmp_path: Path) -> None:
    assert "Fork True [41] 7" in in_a_supervisor(tmp_path, see_through(tmp_path))


def test_a_module_that_starts_a_thread_is_named_and_the_processes_are_commands_of_their_own(tmp_path: Path) -> None:
    said = in_a_supervisor(tmp_path, see_through(tmp_path), imported="import tried_service.pool")
    assert "Spawn True [41] 7" in said
    assert "tried_service.pool starts threads when it is imported" in said


def test_a_module_that_adds_a_finder_is_imported_as_usual(tmp_path: Path) -> None:
    (tmp_path / "hooks.py").write_text(
        "import sys\n"
        "class Finder:\n"
        "    def find_spec(self, *_):\n"
        "        return None\n"
        "sys.meta_path.insert(0, Finder())\n"
        "class Old:\n"
        "    def find_module(self, *_):\n"
        "        return None\n"
        "sys.meta_path.append(Old())\n"
        "import wave\n"
        "try:\n"
        "    import nothing_of_this_name\n"
        "except ModuleNotFoundError:\n"
        "    pass\n"
    )
    said = in_a_supervisor(tmp_path, see_through(tmp_path), imported="import hooks")
    assert "Fork True [41] 7" in said


def test_a_module_of_a_zip_file_that_starts_a_thread_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as packed:
        packed.writestr("first.py", "")
        packed.writestr("second.py", THREADED)
    path = f"sys.path.insert(0, {str(tmp_path / 'packed.zip')!r})"
    said = in_a_supervisor(tmp_path, see_through(tmp_path), imported=f"{path}\nimport first, second")
    assert "second starts threads when it is imported" in said


def test_a_service_that_is_not_preloaded_is_forked_whatever_it_imports(tmp_path: Path) -> None:
    code = see_through(tmp_path).replace("preloads=True", "preloads=False")
    said = in_a_supervisor(tmp_path, code, imported="import tried_service.pool")
    assert "Fork True [41] 7" in said
    assert "starts threads" not in said


def test_a_worker_process_stops_when_its_supervisor_is_killed(tmp_path: Path) -> None:
    code = see_through(tmp_path).partition("own = ")[0] + "print(child.pid, flush=True)\nos.kill(os.getpid(), 9)\n"
    pid = int(in_a_supervisor(tmp_path, code).split()[0])
    wait_until(lambda: (tmp_path / "asked").exists())
    wait_until(lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2])


def test_a_service_that_cannot_be_imported_is_said_before_anything_is_started() -> None:
    with pytest.raises(ImportError):
        starts(Work("no_such", (), 1, 1000), preloads=True)


def test_worker_processes_are_commands_of_their_own_on_a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    assert isinstance(starts(Work("no_such", (), 1, 1000), preloads=True), Spawn)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="references to names are not counted any more")
@pytest.mark.skipif(sys.platform == "darwin", reason="nothing is forked there")
def test_a_fork_gives_back_no_reference_to_a_name_that_its_supervisor_has_looked_up(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from jobkit.cli.starting import Fork\n"
        "from jobkit.cli.worker_process import Work\n"
        "class Thing: ...\n"
        "name = sys.intern('_'.join(['of', 'no', 'attribute']))\n"
        "before = sys.getrefcount(name)\n"
        "hasattr(Thing, name)\n"
        "after = sys.getrefcount(name)\n"
        "Fork(Work('tried', (), 2, 1000))\n"
        "print(after > before, sys.getrefcount(name) == before)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "True True\n"
