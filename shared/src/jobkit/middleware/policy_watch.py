"""Warns of RabbitMQ's policies that harm jobs, where the management API may be asked."""

import logging
import threading
from typing import Any, Final

from dramatiq import Broker
from dramatiq.middleware import Middleware

from jobkit.broker.policies import Policies

#: Seconds from the start of a worker, whose queues RabbitMQ shows after some five, and then between two looks.
_FIRST: Final = 10.0
_INTERVAL: Final = 600.0

log = logging.getLogger(__name__)


class PolicyWatch(Middleware):
    """Looks at the policies of this worker's queues now and then, and warns once of each that harms them.

    Args:
        policies: Asks RabbitMQ.
        first: Seconds until the first look.
    """

    def __init__(self, policies: Policies, first: float = _FIRST) -> None:
        self._policies = policies
        self._first = first
        self._known: list[str] = []
        self._stopped = threading.Event()

    def after_worker_boot(self, broker: Broker, worker: Any) -> None:  # Any: Dramatiq's Worker, not used
        queues = sorted(broker.get_declared_queues())
        threading.Thread(target=self._run, args=(queues,), name="jobkit-policies", daemon=True).start()

    def after_worker_shutdown(self, broker: Broker, worker: Any) -> None:
        self._stopped.set()

    def look(self, queues: list[str]) -> None:
        """Ask once, and log what is new."""
        try:
            lines = self._policies.warnings(queues)
        except Exception as error:  # a best effort: no job depends on it
            lines = [f"JOBKIT_MANAGEMENT_URL: policies cannot be checked at {self._policies.where}: {error}"]
        for line in lines:
            if line not in self._known:
                log.warning("%s", line)
        self._known = lines

    def _run(self, queues: list[str]) -> None:
        pause = self._first
        while not self._stopped.wait(pause):
            self.look(queues)
            pause = _INTERVAL
