"""Time limits that can interrupt a job but never what comes after it."""

from collections.abc import Callable
from datetime import timedelta
from functools import wraps
from typing import ParamSpec, TypeVar

from jobkit.interrupts import Interrupts

P = ParamSpec("P")
T = TypeVar("T")

#: For actors that declare none.
DEFAULT_TIME_LIMIT = timedelta(seconds=30)


def limited(job: Callable[P, T], interrupts: Interrupts, limit: timedelta) -> Callable[P, T]:
    """Return a job in which ``TimeLimitExceeded`` is raised once it has run for longer than ``limit``.

    The function is wrapped, instead of arming a timer before it and disarming it after: an interrupt that lands between
    two hooks would ack the message or end the thread (Dramatiq issue 445). Code that does not return to the
    interpreter, such as a system call, is interrupted after it has returned.
    """

    @wraps(job)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return interrupts.run(lambda: job(*args, **kwargs), limit=limit.total_seconds())

    return run
