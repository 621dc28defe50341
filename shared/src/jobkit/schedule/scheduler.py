"""The process that sends the jobs of schedules when they are due. Run as many as you like: a tick is one job."""

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from typing import Final

from jobkit.errors import BrokerUnavailable, SendError, StoreUnavailable
from jobkit.producer import SendsMessages
from jobkit.schedule.registry import ScheduleRegistry
from jobkit.schedule.schedule import Schedule

#: Ticks missed for longer than this are not made up for.
MISFIRE_LIMIT: Final = timedelta(days=1)

_LOOK: Final = 10.0
_RETRY: Final = 5.0

log = logging.getLogger(__name__)


def _now() -> datetime:
    return datetime.now(UTC)


class Scheduler:
    """Sends one job for each tick, under an id that follows from schedule and tick.

    Two schedulers send the same jobs, and the workers' leases run each once. The tick is noted after the broker's
    confirm, so a scheduler that dies in between sends it again, never not at all. Of the ticks that were missed while
    none was running, the latest is made up for.
    """

    def __init__(self, registry: ScheduleRegistry, sender: SendsMessages, clock: Callable[[], datetime] = _now) -> None:
        self._registry = registry
        self._sender = sender
        self._clock = clock
        self._known = -1

    def run(self, stop: threading.Event, alive: Callable[[], None] = lambda: None) -> None:
        """Fire what is due until ``stop`` is set; outages and errors of any kind are waited out.

        Args:
            stop: Ends it, at once.
            alive: Called at least every ten seconds, as a sign of life.
        """
        while not stop.is_set():
            try:
                alive()
                self.fire_due()
                pause = min(60 - self._clock().timestamp() % 60, _LOOK)
            except (SendError, StoreUnavailable) as outage:
                log.warning("ticks wait: %s", outage)
                pause = _RETRY
            except Exception:  # without schedulers nothing runs by the clock, so none may end for one bad answer
                log.exception("ticks wait")
                pause = _RETRY
            stop.wait(pause)

    def fire_due(self) -> int:
        """Send the job of every schedule that is due; returns how many."""
        now, schedules = self._clock(), self._registry.schedules()
        if len(schedules) != self._known:
            self._known = len(schedules)
            log.info("firing %d schedules", self._known)
        fired = 0
        for schedule in schedules:
            try:
                fired += self._fire(schedule, now)
            except (BrokerUnavailable, StoreUnavailable):
                raise
            except SendError as refusal:  # of this one's message or queue
                log.warning("%s: its tick waits: %s", schedule.name, refusal)
            except Exception:  # one that is broken must not stop the others
                log.exception("%s cannot be fired", schedule.name)
        return fired

    def _fire(self, schedule: Schedule, now: datetime) -> bool:
        # Another list may have been announced since this schedule was read: its last tick is not this one's.
        last = self._registry.last_tick(schedule.name, schedule.when) or now
        ticks = schedule.cron.ticks_after(max(last, now - MISFIRE_LIMIT))
        due = list(takewhile(lambda tick: tick <= now, ticks))
        if not due:
            return False
        latest = due[-1]
        self._sender.send([schedule.message(latest)])
        self._registry.advance(schedule.name, latest, schedule.when)
        if len(due) > 1:
            log.warning("%s: made up for the last of %d missed ticks", schedule.name, len(due))
        log.info("%s: sent the job of %s", schedule.name, latest.isoformat())
        return True
