"""The signals of a worker process: how it is told to stop, and what processes that its jobs start inherit.

One request to stop can arrive as several SIGTERMs. systemd sends one to each process of the unit, and each parent
process forwards its own to its children. Therefore the supervisor alone counts requests, and announces the second one
by ``HURRY``. Under Dramatiq's own command, which has no such signal, time tells requests apart.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from enum import Enum
from types import FrameType
from typing import Final

#: Announces the second request to stop. The supervisor sends it to the process group of a worker. Processes without a
#: handler ignore it by default: Dramatiq's parent process, and programs that jobs have started.
HURRY: Final = signal.SIGURG

#: The environment variable by which a worker process learns that its supervisor sends ``HURRY``.
SUPERVISED: Final = "_JOBKIT_SUPERVISED"

#: Seconds. Under Dramatiq's own command, a SIGTERM that follows another one sooner is the same request: a process group
#: gets its signals within milliseconds, and a person needs longer to ask again.
SAME_REQUEST: Final = 1.0

#: The modules whose handlers of SIGTERM tell that a process is a worker and nothing else: Dramatiq's command, and ours.
_COMMANDS: Final = frozenset({"dramatiq.cli", "jobkit.cli.worker_process"})

#: The signals that have handlers in a worker process.
HANDLED: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, HURRY)


class Word(Enum):
    """What a worker process is told."""

    STOP = "stop"
    NOW = "now"


def listen(say: Callable[[Word], None]) -> bool:
    """Pass on what the signals of this process mean, if it is a worker process of a command, and return whether it is.

    Args:
        say: Called in the signal handler, so it must be safe to call anywhere, as ``SimpleQueue.put`` is.
    """
    command = signal.getsignal(signal.SIGTERM)
    if not callable(command) or getattr(command, "__module__", "") not in _COMMANDS:
        return False
    listener = _Listener(say, command, supervised=os.environ.pop(SUPERVISED, "") != "")
    signal.signal(signal.SIGTERM, listener.on_stop)
    signal.signal(signal.SIGHUP, listener.on_stop)  # stops it as gently; Dramatiq's command then starts another
    signal.signal(HURRY, listener.on_hurry)
    # Both commands ignore SIGINT. Programs inherit an ignored signal but not a handler, and some end by SIGINT only.
    signal.signal(signal.SIGINT, _do_nothing)
    forks = _Forks()
    os.register_at_fork(before=forks.before, after_in_parent=forks.after_in_parent, after_in_child=forks.after_in_child)
    return True


class _Listener:
    def __init__(
        self, say: Callable[[Word], None], command: Callable[[int, FrameType | None], object], *, supervised: bool
    ) -> None:
        self._say = say
        self._command = command
        self._supervised = supervised
        self._stopping = False
        self._first_at: float | None = None  # of the SIGTERMs

    def on_stop(self, number: int, frame: FrameType | None) -> None:
        self._say(Word.NOW if number == signal.SIGTERM and self._is_second() else Word.STOP)
        if not self._stopping:
            self._stopping = True
            # The command's own handler, which lets its main thread stop. Called again, it raises SystemExit, and the
            # interpreter then waits for threads of jobs. It has been called before if a SIGTERM came earlier.
            try:
                self._command(number, frame)
            except SystemExit:
                return

    def on_hurry(self, _number: int, _frame: FrameType | None) -> None:
        self._say(Word.NOW)

    def _is_second(self) -> bool:
        now = time.monotonic()
        if self._first_at is None:
            self._first_at = now
        return not self._supervised and now - self._first_at > SAME_REQUEST


def _do_nothing(_number: int, _frame: FrameType | None) -> None:
    pass


class _Forks:
    """Gives processes that jobs fork the signal handlers of a new interpreter.

    The signals are blocked meanwhile: the interpreter drops those that a child gets before its hooks have run.
    """

    def __init__(self) -> None:
        self._masks = threading.local()

    def before(self) -> None:
        self._masks.mask = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)

    def after_in_parent(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._masks.mask)

    def after_in_child(self) -> None:
        for number in HANDLED:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._masks.mask)
