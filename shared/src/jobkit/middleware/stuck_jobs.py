"""Jobs that do not end although they were interrupted: in a call that never returns, or because they ignore it."""

import faulthandler
import gc
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType
from typing import Any, Final, TypeVar

from dramatiq import Broker, Worker
from dramatiq.middleware import Middleware

from jobkit import telemetry
from jobkit.interrupts import Interrupts
from jobkit.interrupts.windows import PATIENCE, Overrun
from jobkit.middleware.shutdown import STOP_MARGIN
from jobkit.store.base import Lease

AnyThread = TypeVar("AnyThread", bound=threading.Thread)

#: Seconds from its interrupt until a job that has not ended is reported.
REPORT_AFTER: Final = PATIENCE

#: Seconds between two looks.
_LOOK: Final = 1.0

#: In ``STOP_MARGIN``: from the end of the other jobs until the process is gone takes two at most.
_REPLACED_WITHIN: Final = 3

#: Frames of a stack that are logged, the innermost ones.
_FRAMES: Final = 20

#: The file descriptor of standard error: a process that is frozen can use nothing of Python's.
_STDERR: Final = 2

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Replacement:
    """How a worker process with a stuck job is replaced.

    Attributes:
        after: Since the job's interrupt.
        stop_limit: Seconds that its other jobs have to end.
        let_lapse: Called with the lease of the stuck job, which counts a crash.
        note: Called before the process is killed.
    """

    after: timedelta
    stop_limit: float
    let_lapse: Callable[[Lease], None]
    note: Callable[[], None] = lambda: None


class StuckJobs(Middleware):
    """Reports each job that has not ended 5 s after its interrupt, with its stack, and then replaces the process.

    Python cannot end a thread, so a process with a stuck job stops as after SIGTERM: it takes no more jobs, the others
    end or are handed back. Then it is killed, and its supervisor starts another. Only the stuck job counts a crash.

    A call that keeps the interpreter's lock freezes every thread, this one too. The interpreter's own watchdog then
    writes all stacks to standard error and ends the process.

    Listed first, so that its hook after the shutdown runs last.

    Args:
        interrupts: Knows which jobs were interrupted.
        replacement: How the process is replaced; None if it does not belong to the worker.
    """

    def __init__(self, interrupts: Interrupts, replacement: Replacement | None = None) -> None:
        self._interrupts = interrupts
        self._replacement = replacement
        self._reported: set[int] = set()  # executions
        self._given_up: set[int] = set()  # threads
        self._stopping = threading.Event()
        self._ended = threading.Event()

    def after_worker_boot(self, broker: Broker, worker: Worker) -> None:
        self._postpone_watchdog()
        threading.Thread(target=self._run, args=(worker,), name="jobkit-stuck-jobs", daemon=True).start()

    def before_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        self._stopping.set()

    def after_worker_shutdown(self, broker: Broker, worker: Any) -> None:  # Any: Dramatiq's Worker, not used
        self._ended.set()

    def problems(self) -> list[str]:
        """Return a line for each job that has outlasted the replacement of this process."""
        if self._replacement is None:
            return []
        bound = self._replacement.after.total_seconds() + self._replacement.stop_limit
        lasting = self._interrupts.overruns(bound + _REPLACED_WITHIN * STOP_MARGIN.total_seconds())
        return [
            f"a job has not ended {one.seconds:.0f} s after its interrupt, and this process could not be replaced"
            for one in lasting
        ]

    def _run(self, worker: Worker) -> None:
        while not self._ended.wait(_LOOK):
            self._postpone_watchdog()
            try:
                self._report_new()
                # A worker that is told to stop hands back what does not end, and needs no replacement.
                if not self._stopping.is_set() and self._give_up_new():
                    self._replace(worker)
            except Exception:  # without this thread the watchdog would end the process
                log.exception("what does not end could not be looked after now")
        if self._replacement is not None:
            faulthandler.cancel_dump_traceback_later()

    def _postpone_watchdog(self) -> None:
        if self._replacement is not None:
            seconds = self._replacement.after.total_seconds()
            faulthandler.dump_traceback_later(seconds, exit=True, file=_STDERR)

    def _report_new(self) -> None:
        overruns = {id(overrun.execution): overrun for overrun in self._interrupts.overruns(REPORT_AFTER)}
        for key in overruns.keys() - self._reported:
            self._report(overruns[key])
        self._reported = set(overruns)

    def _report(self, overrun: Overrun) -> None:
        execution, frame = overrun.execution, frame_of(overrun.thread)
        if execution is not None:
            telemetry.job_stuck(execution.message.queue_name, execution.job.actor, overrun.interrupt.__name__)
        stack = "".join(traceback.format_stack(frame)[-_FRAMES:]) if frame is not None else ""
        text = f"job has not ended {overrun.seconds:.0f} s after its interrupt ({overrun.interrupt.__name__})"
        if self._replacement is not None:
            text += f"; its worker process is replaced after {self._replacement.after.total_seconds():g} s"
        _log_aside(logging.ERROR, text, {**_names(overrun), "stack": stack})

    def _give_up_new(self) -> bool:
        """Note the jobs for which the process must be replaced; return whether there are any."""
        replacement = self._replacement
        if replacement is None:
            return False
        for overrun in self._interrupts.overruns(replacement.after.total_seconds()):
            if overrun.thread not in self._given_up:
                self._given_up.add(overrun.thread)
                text = f"replacing this worker process: a job has not ended {overrun.seconds:.0f} s after its interrupt"
                _log_aside(logging.CRITICAL, text, _names(overrun))
                if overrun.execution is not None and overrun.execution.lease is not None:
                    replacement.let_lapse(overrun.execution.lease)
        return bool(self._given_up)

    def _replace(self, worker: Worker) -> None:
        """End this process: gently for the other jobs, by SIGKILL for the stuck ones."""
        others = self._without_given_up(worker.workers)
        worker.workers[:] = others  # Dramatiq waits for the threads in this list, and the stuck ones do not end
        limit = self._replacement.stop_limit if self._replacement is not None else 0.0
        end_at = time.monotonic() + limit + STOP_MARGIN.total_seconds()
        os.kill(os.getpid(), signal.SIGTERM)
        while any(thread.is_alive() for thread in self._without_given_up(others)) and time.monotonic() < end_at:
            time.sleep(_LOOK)
            self._postpone_watchdog()
            self._give_up_new()
        self._ended.wait(STOP_MARGIN.total_seconds())
        try:
            if self._replacement is not None:
                self._replacement.note()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)

    def _without_given_up(self, threads: Sequence[AnyThread]) -> list[AnyThread]:
        return [thread for thread in threads if thread.ident not in self._given_up]


def frame_of(thread: int) -> FrameType | None:
    """Return what a thread runs now; None if it has ended.

    Python 3.11 may collect garbage while it makes the frames, under a lock that a collected `threading.local` takes
    too. All threads then wait for ever (gh-106883 of Python). So nothing is collected meanwhile.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        return sys._current_frames().get(thread)
    finally:
        if collects:
            gc.enable()


def _names(overrun: Overrun) -> dict[str, object]:
    execution = overrun.execution
    if execution is None:
        return {}
    return {
        "job_id": execution.job.id,
        "actor": execution.job.actor,
        "queue": execution.message.queue_name,
        "attempt": execution.attempt,
    }


def _log_aside(level: int, text: str, extra: dict[str, object]) -> None:
    """Log in a thread of its own: the stuck job may be the one that holds the lock of a log handler."""
    log_it = threading.Thread(target=log.log, args=(level, text), kwargs={"extra": extra}, daemon=True)
    with suppress(RuntimeError):  # no thread can be started: better no line than no look
        log_it.start()
        log_it.join(_LOOK)
