"""Keeping worker processes alive, each by itself.

Dramatiq's own command ends all of its processes when one of them dies. Here each process is a command of its own: the
others go on with their jobs while the one that died is started again.
"""

import logging
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

from dramatiq.cli import RET_IMPORT

from jobkit.settings import EXIT_MISCONFIGURED

#: Exit statuses that a restart would only repeat: a person must look.
_HOPELESS: Final = frozenset({EXIT_MISCONFIGURED, RET_IMPORT})

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
    started_at: float = 0.0
    start_at: float = 0.0
    pause: float = 0.0


class Supervisor:
    """Runs ``count`` processes of one command until SIGTERM or SIGINT, and starts anew those that die.

    Args:
        command: One worker process with whatever belongs to it.
        count: How many.
        before_restart: Called before a process takes the place of one that died.
    """

    def __init__(self, command: Sequence[str], count: int, *, before_restart: Callable[[], None]) -> None:
        # The kernel passes on our end, should we be killed: workers that nobody stops any more would go on for ever.
        setpriv = shutil.which("setpriv") if sys.platform == "linux" else None
        self._command = [*([setpriv, "--pdeathsig", "TERM"] if setpriv else []), *command]
        self._slots = [_Slot() for _ in range(count)]
        self._before_restart = before_restart
        self._stopping = False
        self._status = 0

    def run(self) -> int:
        """The exit status: 0 after a stop that was asked for, else that of the process that could not go on."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        while True:
            for slot in self._slots:
                self._look_after(slot)
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
        slot.told, slot.started_at = False, now
        try:
            # A session of its own: what the terminal sends to all comes from here, once.
            slot.process = subprocess.Popen(self._command, start_new_session=True)  # noqa: S603  our own command
        except OSError as error:  # no memory, for one: the others must not suffer from it
            self._pause(slot, now)
            log.critical("a worker process cannot be started, tried again in %g s: %s", slot.pause, error)
            return
        if self._stopping and not slot.told:  # the signal came while it was being started
            slot.process.send_signal(signal.SIGTERM)

    def _ended(self, slot: _Slot, status: int) -> None:
        if self._stopping:
            # Stopped before it could take the signal as a wish, it has nothing to hand back.
            self._status = self._status or (0 if status == -signal.SIGTERM else abs(status))
            return
        if status in _HOPELESS:
            self._status = status
            self._stop(signal.SIGTERM)
            return
        self._pause(slot, time.monotonic())
        log.critical("a worker process has died (status %d); another takes its place in %g s", status, slot.pause)
        with suppress(OSError):  # a folder that cannot be tidied up is no reason to work less
            self._before_restart()

    def _pause(self, slot: _Slot, now: float) -> None:
        steady = now - slot.started_at > _STEADY
        slot.pause = 0.0 if steady else min(max(_FIRST_PAUSE, slot.pause * 2), _LONGEST_PAUSE)
        slot.start_at = now + slot.pause

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:  # Dramatiq's command starts its worker anew, gracefully
            self._send(signal.SIGHUP)
        else:
            self._stop(signal.SIGTERM)

    def _stop(self, number: signal.Signals) -> None:
        self._stopping = True
        self._send(number)

    def _send(self, number: signal.Signals) -> None:
        for slot in self._slots:
            if slot.process is not None and slot.process.poll() is None:
                slot.told = True
                slot.process.send_signal(number)
