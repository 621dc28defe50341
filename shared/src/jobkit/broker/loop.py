"""The loop that runs pika's callbacks, one step at a time, so that each step may be another thread's."""

import heapq
import itertools
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from pika.adapters.utils.selector_ioloop_adapter import AbstractSelectorIOLoop

#: Seconds. No wait is longer; whoever waits looks around in between.
_LONGEST_WAIT: Final = 5.0

_GONE: Final = select.POLLHUP | select.POLLERR | select.POLLNVAL

#: File descriptors, and their events.
Ready = list[tuple[int, int]]


@dataclass(slots=True, order=True)
class _Timer:
    due: float
    number: int  # of two that are due at once, the first one comes first
    callback: Callable[[], object] | None = field(compare=False)


class SteppedLoop(AbstractSelectorIOLoop):
    """Waits for sockets and timers, in the thread of whoever calls ``wait`` and ``dispatch``.

    One thread at a time may use it. Any thread may call ``add_callback`` and ``wake``.
    """

    READ = select.POLLIN  # constants, as the interface's own documentation allows
    WRITE = select.POLLOUT
    ERROR = select.POLLERR

    def __init__(self) -> None:
        self._poll = select.poll()
        self._handlers: dict[int, tuple[Callable[[int, int], None], int]] = {}
        self._callbacks: deque[Callable[[], object]] = deque()
        self._timers: list[_Timer] = []
        self._numbers = itertools.count()
        self._woken = False
        self._ear, self._mouth = socket.socketpair()
        self._ear.setblocking(False)
        self._mouth.setblocking(False)
        self.add_handler(self._ear.fileno(), self._listen, select.POLLIN)

    def wait(self, timeout: float) -> Ready:
        """Return what there is to do, after ``timeout`` seconds at most. Changes nothing, so it may be interrupted."""
        if self._callbacks:
            timeout = 0.0
        elif self._timers:
            timeout = min(timeout, self._timers[0].due - time.monotonic())
        return self._poll.poll(1000 * min(max(0.0, timeout), _LONGEST_WAIT))

    def dispatch(self, ready: Ready) -> None:
        """Do it, and call what is due."""
        for fd, events in ready:
            if fd in self._handlers:  # else the one before has removed it
                handler, wanted = self._handlers[fd]
                # Who reads or writes meets the end of the connection there.
                handler(fd, wanted if events & _GONE else events & wanted)
        for _ in range(len(self._callbacks)):
            self._callbacks.popleft()()
        while self._timers and self._timers[0].due <= time.monotonic():
            callback = heapq.heappop(self._timers).callback
            if callback is not None:
                callback()

    def wake(self) -> None:
        """End the ``wait`` of the thread that is in it, or the next one."""
        if not self._woken:
            self._woken = True
            with suppress(OSError):  # closed
                self._mouth.send(b"\0")

    def _listen(self, _fd: int, _events: int) -> None:
        self._woken = False
        with suppress(BlockingIOError):
            self._ear.recv(4096)

    # What pika asks of a loop.

    def add_handler(self, fd: int, handler: Callable[[int, int], None], events: int) -> None:
        """Call ``handler`` with the descriptor and its events."""
        self._handlers[fd] = handler, events
        self._poll.register(fd, events)

    def update_handler(self, fd: int, events: int) -> None:
        """Wait for other events."""
        self.add_handler(fd, self._handlers[fd][0], events)

    def remove_handler(self, fd: int) -> None:
        """Forget a descriptor."""
        del self._handlers[fd]
        self._poll.unregister(fd)

    def call_later(self, delay: float, callback: Callable[[], object]) -> _Timer:
        """Call ``callback`` in ``delay`` seconds."""
        timer = _Timer(time.monotonic() + delay, next(self._numbers), callback)
        heapq.heappush(self._timers, timer)
        return timer

    def remove_timeout(self, timeout_handle: _Timer) -> None:
        """Call nothing then."""
        timeout_handle.callback = None

    def add_callback(self, callback: Callable[[], object]) -> None:
        """Call ``callback`` in the next step."""
        self._callbacks.append(callback)
        self.wake()

    def close(self) -> None:
        """Free what it takes from the system."""
        self._ear.close()
        self._mouth.close()

    def start(self) -> None:
        """Refuse: it has no thread that would run it."""
        raise NotImplementedError

    def stop(self) -> None:
        """Refuse: nothing runs that could be stopped."""
        raise NotImplementedError
