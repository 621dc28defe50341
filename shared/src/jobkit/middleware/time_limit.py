"""Time limits that can interrupt a job but never what comes after it."""

from datetime import timedelta
from functools import wraps
from typing import Any

from dramatiq import Actor, Broker
from dramatiq.middleware import Middleware

from jobkit.interrupts import Interrupts

#: For actors that declare none.
DEFAULT_TIME_LIMIT = timedelta(seconds=30)


class TimeLimit(Middleware):
    """Raises ``TimeLimitExceeded`` in a job that runs for longer than its actor's ``time_limit`` (a ``timedelta``).

    The actor's function is wrapped, instead of arming a timer before it and disarming it after: an interrupt that lands
    between the two hooks would ack the message or end the thread (Dramatiq issue 445). Code that does not return to the
    interpreter, such as a system call, is interrupted after it has returned.
    """

    def __init__(self, interrupts: Interrupts, default: timedelta = DEFAULT_TIME_LIMIT) -> None:
        self._interrupts = interrupts
        self._default = default

    @property
    def actor_options(self) -> set[str]:
        return {"time_limit"}

    def before_declare_actor(self, broker: Broker, actor: Actor[Any, Any]) -> None:
        limit: timedelta = actor.options.get("time_limit", self._default)
        job = actor.fn

        @wraps(job)
        def limited(*args: object, **kwargs: object) -> object:
            return self._interrupts.run(lambda: job(*args, **kwargs), limit=limit.total_seconds())

        actor.fn = limited
