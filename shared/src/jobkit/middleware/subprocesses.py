"""Processes that jobs fork and that come back from the job."""

import logging
import os
from functools import wraps
from typing import Any

from dramatiq import Actor, Broker
from dramatiq.middleware import Middleware

log = logging.getLogger(__name__)


class Subprocesses(Middleware):
    """Ends a forked child at the end of the job, as ``multiprocessing`` does.

    A child that returned into the worker's code would record, acknowledge and publish over its parent's connections.
    """

    def before_declare_actor(self, broker: Broker, actor: Actor[Any, Any]) -> None:
        job = actor.fn

        @wraps(job)
        def in_one_process(*args: object, **kwargs: object) -> object:
            worker = os.getpid()
            try:
                result: object = job(*args, **kwargs)
            except BaseException as error:
                if os.getpid() != worker:
                    _end(actor.actor_name, error)
                raise
            if os.getpid() != worker:
                _end(actor.actor_name, None)
            return result

        actor.fn = in_one_process


def _end(actor: str, error: BaseException | None) -> None:
    """End this process with the status that the interpreter would give it."""
    try:
        log.warning(
            "a forked child of %s came back from its job and is ended: call os._exit() in it", actor, exc_info=error
        )
    finally:
        code = error.code if isinstance(error, SystemExit) else error and 1
        os._exit(code if isinstance(code, int) else int(code is not None))
