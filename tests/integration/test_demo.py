"""The demo as a person runs it: one command, its exit status, what it says and what it leaves."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest
from process_table import command as command_line
from process_table import mentions, pids

PROJECT = Path(__file__).resolve().parents[2]
NO_ENGINE = {"DOCKER_HOST": "tcp://127.0.0.1:9"}  # the discard port, where nothing listens
PARTS = ("E-mails", "Images", "Table", "Predictions", "Dead letter", "Queues")


def command(folder: Path, *options: str) -> list[str]:
    return [sys.executable, str(PROJECT / "examples/demo/demo.py"), "--folder", str(folder), *options]


def run(folder: Path, *options: str, environment: Mapping[str, str] = NO_ENGINE) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(folder, *options),
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def processes_of(folder: Path) -> list[str]:
    """Command lines of what still runs and has the folder in its arguments or variables."""
    return [command_line(pid) for pid in pids() if mentions(pid, folder)]


def assert_everything_came_out(done: subprocess.CompletedProcess[str], folder: Path) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    assert "✗" not in done.stdout
    for part in PARTS:
        assert f"\n{part}" in done.stdout
    assert "TemplateMissing" in done.stdout
    assert len(list((folder / "mailcatcher/mail").glob("*.eml"))) == 3
    assert len(list((folder / "images/processed").iterdir())) == 4
    assert list((folder / "inference/models/digits").glob("*.onnx"))
    with closing(sqlite3.connect(folder / "tables.db")) as database:
        assert database.execute("SELECT count(*) FROM tumours").fetchone() == (569,)


@pytest.mark.skipif((PROJECT / "var/local/environment").exists(), reason="`make up` is up, and the demo would use it")
def test_a_machine_without_engine_and_packages_is_told_so_and_sees_it_all_the_same(tmp_path: Path) -> None:
    empty = tmp_path / "bin"
    empty.mkdir()
    folder = tmp_path / "demo"

    done = run(folder, environment={**NO_ENGINE, "PATH": str(empty)})

    assert "not installed" in done.stdout
    assert "can take minutes" not in done.stdout
    assert "the demo runs embedded" in done.stdout
    assert "without RabbitMQ and Redis" in done.stdout.splitlines()[-1]
    assert_everything_came_out(done, folder)


@pytest.mark.usefixtures("rabbitmq", "redis_server")  # here they only see to it that the packages are installed
def test_real_processes_on_real_nodes_do_all_the_work_and_end_with_the_demo(tmp_path: Path) -> None:
    folder = tmp_path / "demo"

    done = run(folder)

    assert "worker processes on" in done.stdout
    assert_everything_came_out(done, folder)
    assert processes_of(folder) == []


@pytest.mark.usefixtures("rabbitmq", "redis_server")
def test_an_interrupt_ends_everything_that_was_started(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    demo = subprocess.Popen(
        command(folder),
        env={**os.environ, **NO_ENGINE, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert demo.stdout is not None
    with demo:
        for line in demo.stdout:
            if "worker processes on" in line:
                break
        for _ in range(2):  # who is impatient does it twice
            demo.send_signal(signal.SIGINT)
        output, _ = demo.communicate(timeout=60)

    assert demo.returncode == 130, output
    assert "everything that was started has been ended" in output
    assert processes_of(folder) == []


PICTURE = """
import sys
from types import SimpleNamespace
from board import Entry
from rich.console import Console
from screen import _picture
from jobkit.receipt import Receipt
from jobkit.store.base import JobKey, JobRecord, JobState
key, note = JobKey("inference", "train", "1"), {"step": "epoch 12/40", "note": "accuracy 0.951"}
record = JobRecord(key, JobState.RUNNING, attempt=1, crashes=0, fence=1, percent=50, **note)
entries = [Entry(title, Receipt("1", "train", "inference"), 0.0, record, 12.3) for title in sys.argv[1:]]
print = Console(width=80, file=sys.stdout).print
print(_picture(SimpleNamespace(entries=entries), {}, {}, 80))
"""


def test_the_live_table_cuts_neither_title_nor_note_in_a_terminal_of_80_columns() -> None:
    title = "china.jpg → 480 wide, WebP, thumbnail"  # the longest
    done = subprocess.run(
        [sys.executable, "-c", PICTURE, title],
        env={**os.environ, "PYTHONPATH": str(PROJECT / "examples/demo"), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if title in line]
    assert line.rstrip().endswith("12.3 s epoch 12/40 accuracy 0.951")


def test_what_is_not_done_in_time_is_named_and_the_exit_status_is_1(tmp_path: Path) -> None:
    done = run(tmp_path / "demo", "--embedded", environment={"DEMO_TIMEOUT": "1"})

    assert done.returncode == 1
    assert "✗ not done after the 1 s that DEMO_TIMEOUT allows" in done.stdout
    assert "embedded.log" in done.stdout


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")

    done = run(tmp_path, "--embedded")

    assert done.returncode == 1
    assert "name another with --folder" in done.stdout
    assert precious.read_text() == "mine"


#: An engine that answers, and cannot fetch an image. It writes down what it is asked.
NO_PULL = """#!/bin/sh
echo "$*" >> "$CALLS"
case "$*" in *" up "*) echo 'Error response from daemon: dial tcp: i/o timeout' >&2; exit 1 ;; esac
"""
BACKING = """
import pathlib, sys
from backing import open_backing
from local_stack.errors import LocalStackError

try:
    with open_backing(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), "run", say=print) as found:
        print("uses", found.title if found else None)
except LocalStackError as error:
    print("fails:", str(error).splitlines()[-1])
"""


@pytest.mark.parametrize(
    ("chosen", "said", "asked"),
    [
        ("", ["Docker cannot start the containers: {reason}", "uses private nodes"], True),
        ("nodes", ["uses private nodes"], False),
        ("docker", ["fails: Docker cannot start the containers: {reason}"], True),
        ("podman", ["fails: BACKING=podman is not known: set it to nodes or docker, or leave it out"], False),
    ],
)
def test_an_engine_that_cannot_pull_gives_way_to_private_nodes(
    chosen: str, said: list[str], asked: bool, tmp_path: Path
) -> None:
    project, tool, calls = tmp_path / "project", tmp_path / "tools/docker", tmp_path / "calls"
    for folder in (project / "deploy", tool.parent):
        folder.mkdir(parents=True)
    (project / "deploy/compose.yaml").touch()
    tool.write_text(NO_PULL)
    tool.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", BACKING, str(project), str(tmp_path / "nodes")],
        env={
            **os.environ,
            "PATH": f"{tool.parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(PROJECT / "examples/demo"),
            "CALLS": str(calls),
            "BACKING": chosen,
        },
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    reason = "Error response from daemon: dial tcp: i/o timeout"
    assert done.stdout.splitlines() == [line.format(reason=reason) for line in said]
    assert calls.exists() == asked
