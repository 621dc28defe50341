"""Workers tell the registry which of their actors are periodic."""

import logging
import threading
from collections.abc import Sequence
from typing import Any, Final

from dramatiq import Broker
from dramatiq.middleware import Middleware

from jobkit.errors import StoreRefused, StoreUnavailable
from jobkit.refusals import Refusals
from jobkit.schedule.registry import ScheduleRegistry
from jobkit.schedule.schedule import Schedule

#: Seconds. Repeated, so that a store that lost its data knows the schedules again soon.
_INTERVAL: Final = 60.0
_AFTER_A_REFUSAL: Final = 10.0

#: What refuses us, as ``Refusals`` names it.
_SOURCE: Final = "the announcement of schedules"

log = logging.getLogger(__name__)


class Announce(Middleware):
    """Announces a service's schedules and actors when a worker starts, and every minute after that.

    A service without schedules announces that too: else one that dropped its last would go on firing.
    """

    def __init__(
        self,
        service: str,
        schedules: Sequence[Schedule],
        registry: ScheduleRegistry,
        actors: Sequence[str] | None = None,
        refusals: Refusals | None = None,
    ) -> None:
        self._service = service
        self._schedules = schedules
        self._registry = registry
        self._actors = actors
        self._refusals = refusals
        self._stopped = threading.Event()
        self._outage = ""

    def after_worker_boot(self, broker: Broker, worker: Any) -> None:  # Any: Dramatiq's Worker, not used
        threading.Thread(target=self._run, name="jobkit-schedules", daemon=True).start()

    def after_worker_shutdown(self, broker: Broker, worker: Any) -> None:
        self._stopped.set()

    def _run(self) -> None:
        while True:
            try:
                self._registry.announce(self._service, self._schedules, actors=self._actors)
            except StoreUnavailable as outage:
                self._complain(outage)
            except Exception:  # the next minute may do better, and nobody else would try
                log.exception("schedules cannot be announced now")
            else:
                self._outage = ""
                if self._refusals is not None:
                    self._refusals.clear(_SOURCE)
            # Sooner after a refusal: its end has to be noticed.
            refused = self._refusals is not None and self._refusals.has(_SOURCE)
            if self._stopped.wait(_AFTER_A_REFUSAL if refused else _INTERVAL):
                return

    def _complain(self, outage: StoreUnavailable) -> None:
        if isinstance(outage, StoreRefused) and self._refusals is not None:
            self._refusals.report(_SOURCE, outage)
        elif self._outage != str(outage):
            level = logging.ERROR if isinstance(outage, StoreRefused) else logging.WARNING
            log.log(level, "schedules cannot be announced now: %s", outage)
        self._outage = str(outage)
