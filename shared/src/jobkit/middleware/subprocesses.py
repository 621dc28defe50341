"""Processes that jobs fork and that come back from the job."""

import logging
import os
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)


def in_one_process(job: Callable[P, T], actor: str) -> Callable[P, T]:
    """Return a job that ends a forked child at its end, as ``multiprocessing`` does.

    A child that returned into the worker's code would record, acknowledge and publish over its parent's connections.
    """

    @wraps(job)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        worker = os.getpid()
        try:
            result = job(*args, **kwargs)
        except BaseException as error:
            if os.getpid() != worker:
                _end(actor, error)
            raise
        if os.getpid() != worker:
            _end(actor, None)
        return result

    return run


def _end(actor: str, error: BaseException | None) -> None:
    """End this process with the status that the interpreter would give it."""
    try:
        log.warning(
            "a forked child of %s came back from its job and is ended: call os._exit() in it", actor, exc_info=error
        )
    finally:
        code = error.code if isinstance(error, SystemExit) else error and 1
        os._exit(code if isinstance(code, int) else int(code is not None))
