"""Keeping worker processes alive, each by itself.

Dramatiq's own command ends all of its processes when one of them dies. Here the others go on with their jobs while the
one that died is started again, and its jobs are free at that moment.
"""

import logging
import os
import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType
from typing import Final

from jobkit.cli.deaths import Deaths
from jobkit.cli.exit_status import KILLED, NOT_IMPORTED
from jobkit.cli.starting import Running, Starts
from jobkit.middleware.signals import HURRY
from jobkit.process import Identity
from jobkit.settings import EXIT_MISCONFIGURED

#: Exit statuses that a restart would only repeat: a person must look.
_HOPELESS: Final = frozenset({EXIT_MISCONFIGURED, NOT_IMPORTED})

#: Exit statuses of a process that was stopped before it could take the signal as a request. It had no jobs yet.
_STOPPED_EARLY: Final = frozenset({-signal.SIGTERM, KILLED})

#: Seconds for which a death is one of late.
_LATE: Final = 30.0

#: Seconds between two looks at the processes; the death of one is noticed at once.
_LOOK: Final = 0.25
#: Seconds. A process that lived for less than the first waits before it is started again, each time twice as long: so
#: little that killed workers are back soon, enough for the machine to do more than start what ends at once.
_STEADY, _FIRST_PAUSE, _LONGEST_PAUSE = 10.0, 0.2, 3.0

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Slot:
    """A place for one process."""

    process: Running | None = None
    identity: Identity | None = None
    told: bool = False  # of a signal
    renewed: bool = False  # told to stop so that another takes its place
    started_at: float = 0.0
    start_at: float = 0.0
    pause: float = 0.0


class Supervisor:
    """Runs ``count`` worker processes until SIGTERM or SIGINT, and restarts those that die.

    SIGTERM and SIGINT ask it to stop: the first one gently, a second one at once. SIGHUP replaces all processes. Only
    what comes here counts as a request, because its processes may get signals from elsewhere, too.

    Args:
        start: Starts one.
        count: How many.
        deaths: Is told of those that have died.
        before_restart: Called before a process takes the place of one that ended.
    """

    def __init__(self, start: Starts, count: int, deaths: Deaths, *, before_restart: Callable[[], None]) -> None:
        self._start_one = start
        self._deaths = deaths
        self._slots = [_Slot() for _ in range(count)]
        self._before_restart = before_restart
        self._died_at: list[float] = []
        self._stopping = False
        self._hurrying = False
        self._status = 0

    def run(self) -> int:
        """The exit status: 0 after a stop that was asked for, else that of the process that could not go on."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)  # with a handler, it wakes us
        wakes, waker = os.pipe()
        os.set_blocking(wakes, False)
        os.set_blocking(waker, False)
        before = signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        try:
            while True:
                for slot in self._slots:
                    self._look_after(slot)
                self._deaths.tell()
                self._say_who_has_died()
                if self._hurrying:
                    self._hurry()
                if self._stopping and all(slot.process is None for slot in self._slots):
                    return self._status
                if select.select([wakes], [], [], _LOOK)[0]:
                    os.read(wakes, 4096)
        finally:
            signal.set_wakeup_fd(before)
            os.close(wakes)
            os.close(waker)

    def _look_after(self, slot: _Slot) -> None:
        if slot.process is not None and (status := slot.process.poll()) is not None:
            slot.process = None
            if slot.identity is not None:  # what it could not free itself is free now
                self._deaths.note(slot.identity)
            if status != 0 and not self._stopping:
                self._died_at.append(time.monotonic())
            self._ended(slot, status)
        now = time.monotonic()
        if slot.process is None and not self._stopping and slot.start_at <= now:
            self._start(slot, now)

    def _say_who_has_died(self) -> None:
        since = time.monotonic() - _LATE
        self._died_at = [at for at in self._died_at if at > since]
        for slot in self._slots:
            if slot.identity is not None and slot.identity.begun is not None:
                slot.identity.begun.deaths = len(self._died_at)

    def _start(self, slot: _Slot, now: float) -> None:
        slot.told, slot.renewed, slot.started_at = False, False, now
        try:
            slot.process, slot.identity = self._start_one()
        except OSError as error:  # no memory, for one: the others must not suffer from it
            self._pause(slot, now)
            log.critical("a worker process cannot be started, tried again in %g s: %s", slot.pause, error)
            return
        if self._stopping and not slot.told:  # the signal came while it was being started
            self._tell(slot, signal.SIGTERM)

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
            if slot.process is not None:
                with suppress(ProcessLookupError):
                    os.killpg(slot.process.pid, HURRY)

    def _send(self, number: signal.Signals) -> None:
        for slot in self._slots:
            self._tell(slot, number)

    def _tell(self, slot: _Slot, number: signal.Signals) -> None:
        # Who has ended, and was not looked after yet, keeps its number: no other process can get the signal.
        if slot.process is not None:
            slot.told = True
            with suppress(ProcessLookupError):
                os.kill(slot.process.pid, number)
