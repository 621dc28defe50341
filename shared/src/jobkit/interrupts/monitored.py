"""Raising an exception in another thread through ``sys.monitoring`` (PEP 669, Python 3.12 and later)."""

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from threading import get_ident
from types import CodeType, FrameType, SimpleNamespace
from typing import Final, Protocol

from dramatiq.middleware import Interrupt

from jobkit.interrupts.asynchronous import AsynchronousRaiser
from jobkit.interrupts.cleanup import is_between, is_cleaning_up, line_at
from jobkit.interrupts.origin import Origin, Origins
from jobkit.interrupts.raiser import Raiser

#: Tool ids in the order in which they are tried. Debuggers, coverage and profilers know 0 to 2, optimizers 5.
_TOOL_IDS: Final = (3, 4, 5, 2, 1, 0)

_NAME: Final = "jobkit.interrupts"

log = logging.getLogger(__name__)


class Monitoring(Protocol):
    """What is used of ``sys.monitoring``, which the type checker does not know on Python 3.11."""

    events: SimpleNamespace
    DISABLE: object

    def use_tool_id(self, tool_id: int, name: str, /) -> None: ...
    def free_tool_id(self, tool_id: int, /) -> None: ...
    def register_callback(self, tool_id: int, event: int, call: Callable[..., object] | None, /) -> object: ...
    def set_events(self, tool_id: int, events: int, /) -> None: ...
    def set_local_events(self, tool_id: int, code: CodeType, events: int, /) -> None: ...
    def restart_events(self) -> None: ...


@dataclass(slots=True)
class _Due:
    interrupt: type[Interrupt]
    insisted: bool = False
    jumped_to: tuple[CodeType, int] | None = None  # the offset of an instruction


class MonitoredRaiser:
    """Raises an interrupt where the job's own code calls a function or repeats a loop.

    A lock is never between its acquisition and the block that frees it there: such places are inside the functions of
    the standard library and of other libraries, or are no calls and no loops. ``insist`` allows calls and loops of
    libraries too, and each line of those functions of the job that run already. Code that tidies up is left alone.

    The interpreter reports events only while an interrupt is due: jobs pay nothing otherwise.

    Args:
        monitoring: ``sys.monitoring``.
        origins: Tells the job's own code from other code.
        base: The function that calls the job; nothing outside of it is interrupted.
        fallback: Used while other tools occupy all ids.
    """

    def __init__(
        self, monitoring: Monitoring, origins: Origins, base: CodeType, fallback: Raiser | None = None
    ) -> None:
        self._monitoring = monitoring
        self._origins = origins
        self._base = base
        self._fallback = fallback or AsynchronousRaiser()
        # Read and written without a lock in the threads that run jobs: each touches its own key only, and they may
        # hold any lock at that moment.
        self._due: dict[int, _Due] = {}
        self._tool: int | None = None
        self._insisted = False
        self._watched: dict[CodeType, int] = {}
        events = monitoring.events
        self._events: int = events.PY_START | events.PY_RESUME | events.JUMP
        self._callbacks: dict[int, Callable[..., object]] = {
            events.PY_START: self._at_step,
            events.PY_RESUME: self._at_step,
            events.JUMP: self._at_jump,
            events.LINE: self._at_line,
            events.INSTRUCTION: self._at_instruction,
        }

    def raise_in(self, thread: int, interrupt: type[Interrupt]) -> None:
        """Raise ``interrupt`` at the next call or loop of the job's own code in ``thread``."""
        if self._tool is None and not self._switch_on():
            self._fallback.raise_in(thread, interrupt)
            return
        self._due[thread] = _Due(interrupt)

    def insist(self, thread: int) -> None:
        """Allow libraries, and lines of the job's own code."""
        due = self._due.get(thread)
        if due is None or self._tool is None:
            return
        due.insisted = self._insisted = True
        frame = sys._current_frames().get(thread)
        # A function that begins after this is met where it begins.
        while frame is not None and frame.f_code is not self._base:
            if self._origins.of(frame) is Origin.JOB:
                self._watch(frame.f_code, self._monitoring.events.LINE)
            frame = frame.f_back
        self._monitoring.restart_events()  # for those places of libraries that were of no interest until now

    def is_pending(self, thread: int) -> bool:
        """Return whether the interrupt of ``thread`` has not been raised yet."""
        return thread in self._due

    def take_back(self, thread: int) -> None:
        """Raise nothing in ``thread``, and switch the events off if no thread waits for an interrupt."""
        self._due.pop(thread, None)
        self._fallback.take_back(thread)
        if not self._due and self._tool is not None:
            self._switch_off(self._tool)

    def _switch_on(self) -> bool:
        for tool in _TOOL_IDS:
            try:
                self._monitoring.use_tool_id(tool, _NAME)
            except ValueError:  # it is in use
                continue
            for event, callback in self._callbacks.items():
                self._monitoring.register_callback(tool, event, callback)
            self._monitoring.set_events(tool, self._events)
            self._monitoring.restart_events()  # what an earlier interrupt had no interest in
            self._tool = tool
            return True
        log.warning("all ids of sys.monitoring are in use: interrupting a job as on Python 3.11, which may leave locks")
        return False

    def _switch_off(self, tool: int) -> None:
        for code in self._watched:
            self._monitoring.set_local_events(tool, code, 0)
        self._monitoring.set_events(tool, 0)
        for event in self._callbacks:
            self._monitoring.register_callback(tool, event, None)
        self._monitoring.free_tool_id(tool)
        self._watched.clear()
        self._tool, self._insisted = None, False

    # Called by the interpreter, in every thread of the process. What they raise is raised in the code that they are
    # called for; DISABLE ends the reports of one place.

    def _at_step(self, code: CodeType, _offset: int) -> object:
        due = self._due.get(get_ident())
        if due is None:
            return self._of_no_interest(code)
        frame = sys._getframe(1)
        return self._at(frame, due, frame.f_lineno)

    def _at_jump(self, code: CodeType, _offset: int, destination: int) -> object:
        due = self._due.get(get_ident())
        if due is None:
            return self._of_no_interest(code)
        # A loop whose body ends in a `finally` block leaves that with the jump.
        frame, line = sys._getframe(1), line_at(code, destination)
        if not self._may_land(frame, due, line):
            return self._of_no_interest(code)
        # What is raised for a jump, Python 3.12 and 3.13 do not handle in this function: its `finally` and `with`
        # blocks would not run. So it is raised for the instruction that the jump leads to.
        due.jumped_to = code, destination
        self._watch(code, self._monitoring.events.INSTRUCTION)
        return None

    def _at_instruction(self, code: CodeType, offset: int) -> object:
        due = self._due.get(get_ident())
        if due is None or due.jumped_to is None or due.jumped_to[0] is not code or due.jumped_to[1] != offset:
            return None
        return self._at(sys._getframe(1), due, line_at(code, offset))

    def _at_line(self, _code: CodeType, line: int) -> object:
        due, frame = self._due.get(get_ident()), sys._getframe(1)
        if due is None or not due.insisted or is_between(frame):
            return None
        return self._at(frame, due, line)

    def _of_no_interest(self, code: CodeType) -> object:
        """Answer for a thread that is not to be interrupted, where the code may run in one that is."""
        origin = self._origins.known.get(code.co_filename)
        if origin is Origin.GUARDED or (origin is Origin.LIBRARY and not self._insisted):
            return self._monitoring.DISABLE
        return None

    def _at(self, frame: FrameType, due: _Due, line: int | None) -> object:
        if not self._may_land(frame, due, line):
            return self._of_no_interest(frame.f_code)
        del self._due[get_ident()]
        raise due.interrupt

    def _may_land(self, frame: FrameType, due: _Due, line: int | None) -> bool:
        origin = self._origins.of(frame)
        allowed = origin is Origin.JOB or (origin is Origin.LIBRARY and due.insisted)
        return allowed and not is_cleaning_up(frame, line, self._base)

    def _watch(self, code: CodeType, events: int) -> None:
        """Ask for further events of one function, until no interrupt is due any more."""
        before = self._watched.get(code, 0)
        if self._tool is not None and before | events != before:
            self._watched[code] = before | events
            self._monitoring.set_local_events(self._tool, code, before | events)
