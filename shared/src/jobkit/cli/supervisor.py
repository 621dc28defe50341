"""Keeping worker processes alive, each by itself.

Dramatiq's own command ends all of its processes when one of them dies. Here each process is a command of its own: the
others go on with their jobs while the one that died is started again.
"""

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType
from typing import Final

from dramatiq.cli import RET_IMPORT, RET_KILLED

from jobkit.middleware.signals import HURRY, SUPERVISED
from jobkit.settings import EXIT_MISCONFIGURED

#: Exit statuses that a restart would only repeat: a person must look.
_HOPELESS: Final = frozenset({EXIT_MISCONFIGURED, RET_IMPORT})

#: Exit statuses of a process that was stopped before it could take the signal as a request. It had no jobs yet.
_STOPPED_EARLY: Final = frozenset({-signal.SIGTERM, RET_KILLED})

#: Seconds between two looks at the processes.
_LOOK: Final = 0.25
#: Seconds. A process that lived for less than the first waits before it is started again, each time twice as long: so
#: little that killed workers are back soon, enough for the machine to do more than start what ends at once.
_STEADY, _FIRST_PAUSE, _LONGEST_PAUSE = 10.0, 0.2, 3.0

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Slot:
    """A place for one process."""

    process: subprocess.Popen[bytes] | None = None
    told: bool = False  # of a signal
    renewed: bool = False  # told to stop so that another takes its place
    started_at: float = 0.0
    start_at: float = 0.0
    pause: float = 0.0


class Supervisor:
    """Runs ``count`` processes of one command until SIGTERM or SIGINT, and restarts those that die.

    SIGTERM and SIGINT ask it to stop: the first one gently, a second one at once. SIGHUP replaces all processes. Only
    what comes here counts as a request, because its processes may get signals from elsewhere, too.

    Args:
        command: One worker process with whatever belongs to it.
        count: How many.
        before_restart: Called before a process takes the place of one that ended.
    """

    def __init__(self, command: Sequence[str], count: int, *, before_restart: Callable[[], None]) -> None:
        # The kernel passes on our end, should we be killed: workers that nobody stops any more would go on for ever.
        setpriv = shutil.which("setpriv") if sys.platform == "linux" else None
        self._command = [*([setpriv, "--pdeathsig", "TERM"] if setpriv else []), *command]
        self._slots = [_Slot() for _ in range(count)]
        self._before_restart = before_restart
        self._stopping = False
        self._hurrying = False
        self._status = 0

    def run(self) -> int:
        """The exit status: 0 after a stop that was asked for, else that of the process that could not go on."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        while True:
            for slot in self._slots:
                self._look_after(slot)
            if self._hurrying:
                self._hurry()
            if self._stopping and all(slot.process is None for slot in self._slots):
                return self._status
            time.sleep(_LOOK)

    def _look_after(self, slot: _Slot) -> None:
        if slot.process is not None and (status := slot.process.poll()) is not None:
            slot.process = None
            self._ended(slot, status)
        now = time.monotonic()
        if slot.process is None and not self._stopping and slot.start_at <= now:
            self._start(slot, now)

    def _start(self, slot: _Slot, now: float) -> None:
        slot.told, slot.renewed, slot.started_at = False, False, now
        try:
            # A session of its own: what the terminal sends to all comes from here, once.
            slot.process = subprocess.Popen(  # noqa: S603  our own command
                self._command, start_new_session=True, env={**os.environ, SUPERVISED: "1"}
            )
        except OSError as error:  # no memory, for one: the others must not suffer from it
            self._pause(slot, now)
            log.critical("a worker process cannot be started, tried again in %g s: %s", slot.pause, error)
            return
        if self._stopping and not slot.told:  # the signal came while it was being started
            slot.process.send_signal(signal.SIGTERM)

    def _ended(self, slot: _Slot, status: int) -> None:
        if self._stopping:
            if status in _STOPPED_EARLY:
                status = int(self._hurrying)
            self._status = self._status or abs(status)
            return
        if status in _HOPELESS:
            self._status = status
            self._stop()
            return
        if slot.renewed and status in {0, *_STOPPED_EARLY}:
            slot.start_at = slot.pause = 0.0
            log.info("a worker process has stopped as it was told to; starting another")
        else:
            self._pause(slot, time.monotonic())
            log.critical("a worker process has died (status %d); another takes its place in %g s", status, slot.pause)
        with suppress(OSError):  # a folder that cannot be tidied up is no reason to work less
            self._before_restart()

    def _pause(self, slot: _Slot, now: float) -> None:
        steady = now - slot.started_at > _STEADY
        slot.pause = 0.0 if steady else min(max(_FIRST_PAUSE, slot.pause * 2), _LONGEST_PAUSE)
        slot.start_at = now + slot.pause

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            for slot in self._slots:
                slot.renewed = True
            self._send(signal.SIGTERM)
        elif self._stopping:
            self._hurrying = True
            self._send(signal.SIGTERM)  # ends a process that is still loading the service
        else:
            self._stop()

    def _stop(self) -> None:
        self._stopping = True
        self._send(signal.SIGTERM)

    def _hurry(self) -> None:
        """Tell all processes of the groups; repeated, because one that has just started cannot hear it yet."""
        for slot in self._slots:
            if slot.process is not None and slot.process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(slot.process.pid, HURRY)

    def _send(self, number: signal.Signals) -> None:
        for slot in self._slots:
            if slot.process is not None and slot.process.poll() is None:
                slot.told = True
                slot.process.send_signal(number)
