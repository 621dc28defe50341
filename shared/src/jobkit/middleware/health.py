"""A file whose age says whether a worker process is alive, for the container's health check."""

import logging
import os
import threading
import time
from pathlib import Path
from typing import Any, Final

from dramatiq import Broker, Worker
from dramatiq.middleware import Middleware

#: Seconds between two touches of the file, and after which it is too old.
INTERVAL: Final = 5.0
TOO_OLD: Final = 30.0

log = logging.getLogger(__name__)


class Health(Middleware):
    """Touches ``folder/<process id>`` as long as all threads of the worker live.

    A broker or store that is down does not make a worker unhealthy: it waits, and a restart would not help.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stopped = threading.Event()

    def after_worker_boot(self, broker: Broker, worker: Worker) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        threading.Thread(target=self._touch, args=(worker,), name="jobkit-health", daemon=True).start()

    def after_worker_shutdown(self, broker: Broker, worker: Any) -> None:  # Any: Dramatiq's Worker, not used
        self._stopped.set()
        sign_of_life(self._folder).unlink(missing_ok=True)

    def _touch(self, worker: Worker) -> None:
        while True:
            threads = [*worker.workers, *worker.consumers.values()]
            if all(thread.is_alive() for thread in threads):
                sign_of_life(self._folder).touch()
            else:
                log.critical("a thread of this worker has died; the health check will fail")
            if self._stopped.wait(INTERVAL):
                return


def sign_of_life(folder: Path) -> Path:
    """The file that this process keeps fresh."""
    return folder / str(os.getpid())


def forget_the_dead(folder: Path) -> None:
    """Remove the files of processes that crashed, before new ones start; a volume can outlive its container.

    One that lives after all writes its file anew within ``INTERVAL``.
    """
    for file in folder.glob("*"):
        if file.name.isdecimal():  # nothing else is ours, should the folder be a wrong one
            file.unlink(missing_ok=True)


def forget_the_gone(folder: Path) -> None:
    """Remove the files of processes that no longer run, when another takes the place of one."""
    for file in folder.glob("*"):
        if file.name.isdecimal() and not _runs(int(file.name)):
            file.unlink(missing_ok=True)


def is_healthy(folder: Path, now: float | None = None) -> bool:
    """Whether every worker process that left a file in ``folder`` has touched it lately, and there is one."""
    now = time.time() if now is None else now
    touched = [_touched(file) for file in folder.glob("*")] if folder.is_dir() else []
    ages = [now - at for at in touched if at is not None]
    return bool(ages) and max(ages) < TOO_OLD


def _touched(file: Path) -> float | None:
    try:
        return file.stat().st_mtime
    except FileNotFoundError:  # its process has ended since the folder was read, or was forgotten
        return None


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
