"""Signs of life: files of our own alone, and no trouble with them disturbs the work."""

import errno
import logging
import os
import shutil
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import pytest
from typer.testing import CliRunner

from jobkit.cli import app
from jobkit.middleware.health import Health
from jobkit.middleware.sign_of_life import (
    SignOfLife,
    complaints,
    forget_the_dead,
    forget_the_gone,
    is_healthy,
    note_replacement,
)
from jobkit.schedule.scheduler import Scheduler

OTHERS = [
    "17",
    "20261101",
    "4711.json",
    "worker-17",
    "worker-x.json",
    "notes.txt",
    "reworker-17.json",
    "worker-1.json.gz",
]


GONE = 2**22 + 1  # no process has such a number


@pytest.mark.parametrize("forget", [forget_the_dead, partial(forget_the_gone, tolerated=3)])
def test_only_our_own_files_are_removed(tmp_path: Path, forget: Callable[[Path], None]) -> None:
    for name in [*OTHERS, f"worker-{GONE}.json", f"scheduler-{GONE}.json"]:
        (tmp_path / name).touch()
    forget(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(OTHERS)


def test_the_files_of_others_say_nothing_about_health(tmp_path: Path) -> None:
    for name in OTHERS:
        (tmp_path / name).write_text('{"problems": ["not ours"]}')
        os.utime(tmp_path / name, (0, 0))
    assert complaints(tmp_path) == [f"no process has a sign of life in {tmp_path}"]
    SignOfLife(tmp_path, "worker").renew()
    assert is_healthy(tmp_path)


def test_files_of_processes_that_run_stay(tmp_path: Path) -> None:
    sign = SignOfLife(tmp_path, "worker")
    sign.renew()
    forget_the_gone(tmp_path, 3)
    assert sign.path.exists()
    sign.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_new_worker_is_healthy_after_a_crash_of_the_one_before(tmp_path: Path) -> None:
    (tmp_path / "worker-17.json").touch()
    os.utime(tmp_path / "worker-17.json", (0, 0))
    assert not is_healthy(tmp_path)
    forget_the_dead(tmp_path)
    SignOfLife(tmp_path, "worker").renew()
    assert is_healthy(tmp_path)


def replacements(folder: Path, monkeypatch: pytest.MonkeyPatch, *processes: int) -> None:
    """Let these processes be replaced because of stuck jobs; three crashes end a job."""
    for process in processes:
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda process=process: process)
            note_replacement(folder, 3)


def test_replacements_that_do_not_help_are_unhealthy_until_a_job_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SignOfLife(tmp_path, "worker").renew()
    replacements(tmp_path, monkeypatch, 101, 102, 103)
    assert complaints(tmp_path) == [], "they may all be of one job, which is dead-lettered now"
    replacements(tmp_path, monkeypatch, 104)
    (complaint,) = complaints(tmp_path)
    assert complaint.startswith("4 worker processes were replaced because of jobs that do not end")
    forget_the_gone(tmp_path, 3)
    assert not is_healthy(tmp_path), "the process that replaces another does not hide it"
    health = Health(tmp_path, 60, lambda: None)
    health.after_process_message(Mock(), Mock())
    health._ended.set()
    health._run()
    assert is_healthy(tmp_path)


@pytest.mark.parametrize(("silent_for", "frozen"), [(9, False), (11, True)])
def test_a_process_that_was_frozen_when_it_ended_is_logged_and_counts_as_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, silent_for: int, frozen: bool
) -> None:
    for process in range(GONE, GONE + 4):
        (tmp_path / f"worker-{process}.json").write_text("{}")
        os.utime(tmp_path / f"worker-{process}.json", (1000, 1000))
    forget_the_gone(tmp_path, 3, now=1000 + silent_for)
    SignOfLife(tmp_path, "worker").renew()
    assert is_healthy(tmp_path) is not frozen
    lines = [record.message for record in caplog.records if "was frozen for 11 s" in record.message]
    assert len(lines) == (4 if frozen else 0)


def test_a_restart_forgets_replacements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replacements(tmp_path, monkeypatch, *range(101, 110))
    forget_the_dead(tmp_path)
    SignOfLife(tmp_path, "worker").renew()
    assert is_healthy(tmp_path)


def test_a_mark_that_cannot_be_read_counts_for_nothing(tmp_path: Path) -> None:
    SignOfLife(tmp_path, "worker").renew()
    for number, text in enumerate(["", "[]", '{"tolerated": "many"}', "{"]):
        (tmp_path / f"replaced-{number}.json").write_text(text)
    assert is_healthy(tmp_path)


def test_a_process_that_ends_while_health_is_checked_does_no_harm(tmp_path: Path) -> None:
    SignOfLife(tmp_path, "worker").renew()
    (tmp_path / "worker-2.json").symlink_to(tmp_path / "gone")  # listed, and not there to be looked at
    assert is_healthy(tmp_path)


def test_a_file_that_is_just_being_written_counts_by_its_age(tmp_path: Path) -> None:
    (tmp_path / "worker-2.json").touch()
    assert is_healthy(tmp_path)
    (tmp_path / "worker-2.json").write_text('{"probl')
    assert is_healthy(tmp_path)


def test_the_command_says_what_is_wrong_with_which_process(tmp_path: Path) -> None:
    SignOfLife(tmp_path, "worker").renew(["the consumer of email is not subscribed"])
    (tmp_path / "scheduler-2.json").touch()
    os.utime(tmp_path / "scheduler-2.json", (0, 0))
    done = CliRunner().invoke(app, ["health", "--folder", str(tmp_path)])
    first, second = done.stderr.splitlines()
    assert done.exit_code == 1
    assert first.startswith("scheduler-2: no sign of life for ")
    assert second == f"worker-{os.getpid()}: the consumer of email is not subscribed"


def test_a_problem_that_is_over_is_not_told_any_more(tmp_path: Path) -> None:
    sign = SignOfLife(tmp_path, "worker")
    sign.renew(["a thread has died"])
    sign.renew()
    assert is_healthy(tmp_path)


def test_a_renewal_that_fails_is_logged_once_and_the_next_one_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    sign = SignOfLife(tmp_path / "health", "worker")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        sign.renew()
        sign.renew()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    sign.renew()
    assert is_healthy(tmp_path / "health")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        os.utime(sign.path, (0, 0))
        sign.renew()
    assert is_healthy(tmp_path / "health"), "a sign that stays the same needs no space"


def test_a_folder_that_somebody_has_removed_is_made_again(tmp_path: Path) -> None:
    sign = SignOfLife(tmp_path / "health", "worker")
    sign.renew()
    shutil.rmtree(tmp_path / "health")
    sign.renew()
    assert is_healthy(tmp_path / "health")


def test_a_scheduler_that_cannot_write_its_sign_of_life_skips_no_round(tmp_path: Path) -> None:
    class OneRound(Scheduler):
        def __init__(self) -> None:
            self.rounds = 0
            self._clock = lambda: 0  # type: ignore[assignment,return-value]  # not reached

        def fire_due(self) -> int:
            self.rounds += 1
            stop.set()
            return 0

    (tmp_path / "file").touch()
    stop, scheduler = threading.Event(), OneRound()
    scheduler.run(stop, alive=SignOfLife(tmp_path / "file", "scheduler").renew)
    assert scheduler.rounds == 1


def test_an_empty_health_folder_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JOBKIT_HEALTH_FOLDER", "")
    assert CliRunner().invoke(app, ["health"]).exit_code == 2
