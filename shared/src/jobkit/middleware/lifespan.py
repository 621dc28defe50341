"""What a worker process opens when it starts and closes when it ends."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Generic, TypeVar

from dramatiq import Broker
from dramatiq.middleware import Middleware

from jobkit.settings import EXIT_MISCONFIGURED

R = TypeVar("R")

log = logging.getLogger(__name__)


class Lifespan(Middleware, Generic[R]):
    """Keeps a service's resources open for as long as its worker process runs.

    Args:
        open_resources: Called once in each worker process; what it yields is ``resources``. An exception ends the
            worker with its text and the exit status of a misconfiguration.
    """

    def __init__(self, open_resources: Callable[[], AbstractContextManager[R]]) -> None:
        self._open = open_resources
        self._stack = ExitStack()
        self._resources: list[R] = []

    @property
    def resources(self) -> R:
        """What the lifespan yielded; raises ``RuntimeError`` in a process that is no worker."""
        if not self._resources:
            raise RuntimeError("the service's resources are open in a running worker only")
        return self._resources[0]

    def before_worker_boot(self, broker: Broker, worker: Any) -> None:  # Any: Dramatiq's Worker, not used
        try:
            self._resources = [self._stack.enter_context(self._open())]
        except Exception as error:
            log.critical("the worker's resources cannot be opened: %s", error, exc_info=not str(error))
            raise SystemExit(EXIT_MISCONFIGURED) from error

    def after_worker_shutdown(self, broker: Broker, worker: Any) -> None:
        self._resources = []
        self._stack.close()
