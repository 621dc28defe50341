"""Before a worker takes its first job, and while it runs: may it do what its jobs need?"""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

from dramatiq import Broker
from dramatiq.middleware import Middleware

from jobkit.access import Access
from jobkit.errors import SettingsError, StoreUnavailable
from jobkit.settings import EXIT_MISCONFIGURED
from jobkit.store.room import Room

#: Seconds between two looks while it runs.
INTERVAL: Final = 10.0

log = logging.getLogger(__name__)


class Entry(Middleware):
    """Ends the worker at its start, with one line, if it is refused; later, notes refusals and their end.

    Args:
        access: What the worker has to be let in to.
        advice: Returns what endangers the work, to be warned of once.
        room: What the job store has left.
    """

    def __init__(self, access: Access, advice: Callable[[], Sequence[str]], room: Room) -> None:
        self._access = access
        self._advice = advice
        self._room = room
        self._stopped = threading.Event()

    def before_worker_boot(self, broker: Broker, worker: Any) -> None:  # Any: Dramatiq's Worker, not used
        try:
            self._access.demand()
            for line in self._advice():
                log.warning("%s", line)
            self._room.look(refused=False)
        except SettingsError as refusal:
            log.critical("%s", refusal)
            raise SystemExit(EXIT_MISCONFIGURED) from refusal
        except StoreUnavailable as outage:
            log.debug("the store cannot be asked about itself now: %s", outage)

    def after_worker_boot(self, broker: Broker, worker: Any) -> None:
        threading.Thread(target=self._run, name="jobkit-access", daemon=True).start()

    def after_worker_shutdown(self, broker: Broker, worker: Any) -> None:
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(INTERVAL):
            try:
                self._access.look()
                self._room.look(refused=self._access.store_is_full)
            except Exception:  # the next look may do better, and nobody else would try
                log.exception("what this worker may do cannot be tried now")
