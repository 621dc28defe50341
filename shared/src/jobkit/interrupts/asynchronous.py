"""Raising an exception in another thread through the interpreter's asynchronous exceptions."""

import ctypes

from dramatiq.middleware import Interrupt


class AsynchronousRaiser:
    """Raises an interrupt at whatever the thread does next in Python code.

    That can be a function of the standard library which has just taken a lock: the lock then stays taken. Only
    Python 3.11 needs it, and a process in which other tools occupy all ids of ``sys.monitoring``.
    """

    def raise_in(self, thread: int, interrupt: type[Interrupt]) -> None:
        """Raise ``interrupt`` when ``thread`` next runs Python code."""
        _set_exception(thread, interrupt)

    def insist(self, thread: int) -> None:
        """Do nothing: every place is allowed from the start."""

    def is_pending(self, thread: int) -> bool:
        """Return False: the interpreter does not tell."""
        return False

    def take_back(self, thread: int) -> None:
        """Drop an exception that has not been raised yet."""
        _set_exception(thread, None)


def _set_exception(thread: int, interrupt: type[Interrupt] | None) -> None:
    exception = ctypes.py_object(interrupt) if interrupt is not None else None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), exception)
