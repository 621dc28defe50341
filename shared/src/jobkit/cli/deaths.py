"""Telling the store that a worker process has died, so that its jobs run elsewhere at once."""

import logging
import time
from collections.abc import Callable
from contextlib import closing
from typing import Final

from jobkit.errors import StoreUnavailable, text_of
from jobkit.process import Identity
from jobkit.store.base import JobStore

#: Seconds until a store that was away is told again.
_AGAIN: Final = 1.0

log = logging.getLogger(__name__)


class Deaths:
    """What is still to be told of dead processes.

    Args:
        service: Whose processes they were.
        open_store: Connects to the job store; the connection lasts for the moment in which it is needed.
    """

    def __init__(self, service: str, open_store: Callable[[], JobStore]) -> None:
        self._service = service
        self._open_store = open_store
        self._untold: list[Identity] = []
        self._tell_at = 0.0

    def note(self, identity: Identity) -> None:
        """A process has ended, and perhaps not said so itself."""
        self._untold.append(identity)
        self._tell_at = 0.0

    def tell(self) -> None:
        """Tell the store, unless there is nothing to tell, or it was away a moment ago."""
        if not self._untold or time.monotonic() < self._tell_at:
            return
        try:
            with closing(self._open_store()) as store:
                while self._untold:
                    dead = self._untold[0]
                    begun = dead.begun.numbers() if dead.begun is not None else frozenset()
                    store.declare_dead(dead.name, self._service, begun)
                    self._untold.pop(0)
        except Exception as error:  # whatever it is, the worker processes that live depend on this one
            self._tell_at = time.monotonic() + _AGAIN
            log.warning(
                "the store does not yet know that a worker process has ended; the jobs of that process wait: %s",
                text_of(error),
                exc_info=not isinstance(error, StoreUnavailable),
            )
