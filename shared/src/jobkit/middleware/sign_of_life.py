"""Files by which processes show that they live: what ``jobkit health`` looks at."""

import json
import logging
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

#: Seconds after which a file is too old. Processes renew theirs every ten seconds, or more often.
TOO_OLD: Final = 30.0

#: Seconds without a renewal, of a process that ended: two renewals were missed, so it was frozen before it ended.
_FROZEN: Final = 10.0

#: The names of our files. Nothing else is read or removed: the folder may hold the files of others.
_OURS: Final = re.compile(r"(?:worker|scheduler)-([0-9]+)\.json")

#: The names of the marks that replaced processes leave.
_REPLACED: Final = re.compile(r"replaced-([0-9]+)\.json")

log = logging.getLogger(__name__)


class SignOfLife:
    """The file ``<role>-<process id>.json`` of this process.

    Its age says that the process lives, its text what is wrong all the same. A folder that cannot be written to is
    logged, and never raised: work goes on, and the next renewal may succeed.
    """

    def __init__(self, folder: Path, role: Literal["worker", "scheduler"]) -> None:
        self._folder = folder
        self._role = role
        self._written = ""
        self._failing = False

    @property
    def path(self) -> Path:
        """The file of this process."""
        return self._folder / f"{self._role}-{os.getpid()}.json"

    def renew(self, problems: Sequence[str] = (), notes: Sequence[str] = ()) -> None:
        """Show that the process lives, what is wrong with it, and what its work waits for though nothing is."""
        try:
            self._write(json.dumps({"problems": list(problems), "notes": list(notes)}))
        except OSError as error:
            if not self._failing:
                log.warning("JOBKIT_HEALTH_FOLDER: the sign of life cannot be written, trying again: %s", error)
            self._failing = True
        else:
            self._failing = False

    def remove(self) -> None:
        """The process ends as it should."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("JOBKIT_HEALTH_FOLDER: the sign of life cannot be removed: %s", error)

    def _write(self, text: str) -> None:
        if text == self._written:
            try:
                os.utime(self.path)  # needs no space on the disk
            except FileNotFoundError:
                pass  # somebody has tidied up
            else:
                return
        self._folder.mkdir(parents=True, exist_ok=True)
        self.path.write_text(text, "utf-8")
        self._written = text


def note_replacement(folder: Path, tolerated: int, process: int | None = None) -> None:
    """Leave a mark: a process is replaced because a job does not end.

    Args:
        folder: The health folder.
        tolerated: Marks up to this number may all be of one job, which is dead-lettered then.
        process: Its number; None is this process.
    """
    name = f"replaced-{os.getpid() if process is None else process}.json"
    try:
        (folder / name).write_text(json.dumps({"tolerated": tolerated}), "utf-8")
    except OSError as error:
        log.warning("JOBKIT_HEALTH_FOLDER: a replacement cannot be noted: %s", error)


def forget_replacements(folder: Path) -> None:
    """Remove the marks: a job has ended since, so the replacements have helped."""
    for file, _pid in _named(folder, _REPLACED):
        with suppress(OSError):
            file.unlink(missing_ok=True)


def forget_the_dead(folder: Path) -> None:
    """Remove the files of processes that crashed, before new ones start; a volume can outlive its container.

    A process that lives writes its file again with its next renewal.
    """
    for file, _pid in (*_ours(folder), *_named(folder, _REPLACED)):
        file.unlink(missing_ok=True)


def forget_the_gone(folder: Path, tolerated: int, now: float | None = None) -> None:
    """Remove the files of processes that no longer run, when another takes the place of one.

    A process that a job has frozen can neither log nor leave a mark before it is ended. Both are done here: the age of
    its sign of life tells.

    Args:
        folder: The health folder.
        tolerated: As for ``note_replacement``.
        now: Seconds since the epoch; None is the time of the machine.
    """
    now = time.time() if now is None else now
    for file, pid in _ours(folder):
        if _runs(pid):
            continue
        age = now - file.stat().st_mtime
        file.unlink(missing_ok=True)
        if age > _FROZEN:
            log.critical(
                "process %d was frozen for %.0f s before it ended: a job's call kept the interpreter's lock. "
                "Standard error shows the stacks of its threads if it was ended for that",
                *(pid, age),
            )
            note_replacement(folder, tolerated, pid)


def complaints(folder: Path, now: float | None = None) -> list[str]:
    """Return what is wrong with the processes that have a file in ``folder``, a line for each problem."""
    now = time.time() if now is None else now
    lives, found = False, []
    for file, _pid in _ours(folder):
        try:
            age, text = now - file.stat().st_mtime, file.read_text("utf-8", "replace")
        except FileNotFoundError:  # its process has ended since the folder was read
            continue
        lives = True
        if age >= TOO_OLD:
            found.append(f"{file.stem}: no sign of life for {age:.0f} s")
        found += [f"{file.stem}: {problem}" for problem in _lines(text, "problems")]
    found += _replacements_in_vain(folder)
    return found if lives else [f"no process has a sign of life in {folder}"]


def remarks(folder: Path) -> list[str]:
    """Return what the work of healthy processes waits for, a line for each: they mostly wait for the same."""
    found: list[str] = []
    for file, _pid in _ours(folder):
        with suppress(FileNotFoundError):  # its process has ended since the folder was read
            found += _lines(file.read_text("utf-8", "replace"), "notes")
    return list(dict.fromkeys(found))


def is_healthy(folder: Path, now: float | None = None) -> bool:
    """Whether every process that has a file in ``folder`` renewed it lately without a problem, and there is one."""
    return not complaints(folder, now)


def _ours(folder: Path) -> Iterator[tuple[Path, int]]:
    return _named(folder, _OURS)


def _named(folder: Path, names: re.Pattern[str]) -> Iterator[tuple[Path, int]]:
    for file in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        if name := names.fullmatch(file.name):
            yield file, int(name[1])


def _replacements_in_vain(folder: Path) -> list[str]:
    marks = []
    for file, _pid in _named(folder, _REPLACED):
        with suppress(OSError, ValueError, KeyError, TypeError):  # removed or being written just now
            marks.append(int(json.loads(file.read_text("utf-8"))["tolerated"]))
    if not marks or len(marks) <= max(marks):
        return []
    return [f"{len(marks)} worker processes were replaced because of jobs that do not end, and no job has ended since"]


def _lines(text: str, kind: str) -> list[str]:
    try:
        return [str(line) for line in json.loads(text)[kind]]
    except (ValueError, KeyError, TypeError):
        return []  # it is just being written, and its age counts


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
