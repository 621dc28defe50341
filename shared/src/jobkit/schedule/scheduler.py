"""The process that sends the jobs of schedules when they are due. Run as many as you like: a tick is one job."""

import logging
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from itertools import islice, takewhile
from typing import Final

from jobkit.errors import AccessRefused, BrokerUnavailable, JobkitError, SendError, StoreRefused, StoreUnavailable
from jobkit.producer import SendsMessages
from jobkit.refusals import WRITING, Refusals
from jobkit.schedule.registry import ScheduleRegistry
from jobkit.schedule.schedule import Schedule

#: What refuses us, as ``Refusals`` names it.
STORE: Final = "the store of schedules"
_SOURCES: Final[dict[type[JobkitError], str]] = {StoreRefused: STORE, AccessRefused: WRITING}

_LOOK: Final = 10.0
_RETRY: Final = 5.0

#: A last tick that is further ahead than this was noted by a clock that was wrong. Less is the difference between the
#: clocks of two Redis servers, one of which has replaced the other.
_AHEAD: Final = timedelta(minutes=1)

#: Skipped ticks that one line of the log counts.
_MOST_COUNTED: Final = 10_000

log = logging.getLogger(__name__)


class Scheduler:
    """Sends one job for each tick, under an id that follows from schedule and tick.

    Two schedulers send the same jobs, and the workers' leases run each once. The tick is noted after the broker's
    confirm, so a scheduler that dies in between sends it again, never not at all. Of the ticks that were missed while
    none was running, the latest is made up for.

    Args:
        registry: Keeps the schedules and their last ticks.
        sender: Sends the jobs.
        clock: The time; by default that of the registry's store, so that no machine's own clock matters.
        refusals: Told when the store or the broker refuses our user. Without it, the scheduler logs that itself.
    """

    def __init__(
        self,
        registry: ScheduleRegistry,
        sender: SendsMessages,
        clock: Callable[[], datetime] | None = None,
        refusals: Refusals | None = None,
    ) -> None:
        self._registry = registry
        self._sender = sender
        self._clock = clock or registry.now
        self._known = -1
        self._skipped: dict[tuple[str, str], datetime] = {}  # until when skipped ticks were warned of
        self._outage = ""
        self._refusals = refusals
        self._refused: JobkitError | None = None  # a schedule, in the last round
        self._waiting: dict[str, str] = {}  # why the tick of a schedule waits, as it was logged

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
                self._announce(self._refused)
                pause = _RETRY if self._refused else min(60 - self._clock().timestamp() % 60, _LOOK)
            except (SendError, StoreUnavailable) as outage:
                self._announce(outage)
                pause = _RETRY
            except Exception:  # without schedulers nothing runs by the clock, so none may end for one bad answer
                log.exception("ticks wait")
                pause = _RETRY
            stop.wait(pause)

    @property
    def waits(self) -> bool:
        """Whether the last round met an outage or a refusal."""
        return bool(self._outage)

    def _announce(self, outage: JobkitError | None) -> None:
        """Say once what ticks wait for, and that they go on."""
        text = str(outage or "")
        if outage is not None:
            source = _SOURCES.get(type(outage))
            if self._refusals is not None and source is not None:
                self._refusals.report(source, outage)  # which logs it, and fails the health check after a while
            elif self._refusals is not None and self._refusals.knows(outage):
                pass  # a refused login, which the connection has reported
            elif text != self._outage:
                log.log(logging.WARNING if source is None else logging.ERROR, "ticks wait: %s", outage)
        elif self._outage:
            log.info("ticks go on")
        self._outage = text

    def fire_due(self) -> int:
        """Send the job of every schedule that is due; returns how many.

        A schedule that is refused does not keep the others from being sent.
        """
        now, schedules = self._clock(), self._registry.schedules()
        if len(schedules) != self._known:
            self._known = len(schedules)
            log.info("firing %d schedules", self._known)
        fired, self._refused = 0, None
        for schedule in schedules:
            try:
                fired += self._fire(schedule, now)
            except (StoreRefused, AccessRefused) as refusal:
                self._refused = self._refused or refusal
            except (BrokerUnavailable, StoreUnavailable):
                raise
            except SendError as refusal:  # of this one's message or queue
                if self._waiting.get(schedule.name) != str(refusal):
                    log.warning("%s: its tick waits: %s", schedule.name, refusal)
                self._waiting[schedule.name] = str(refusal)
            except Exception:  # one that is broken must not stop the others
                log.exception("%s cannot be fired", schedule.name)
        return fired

    def _fire(self, schedule: Schedule, now: datetime) -> bool:
        last = self._last_tick(schedule, now)
        oldest = now - schedule.misfire
        self._warn_of_skipped(schedule, last, oldest)
        latest, count = None, 0
        for tick in self._ticks(schedule, max(last, oldest), now):  # of years, perhaps: no list of them
            latest, count = tick, count + 1
        if latest is None:
            return False
        self._sender.send([schedule.message(latest)])
        self._waiting.pop(schedule.name, None)
        if self._refusals is not None:
            self._refusals.clear(WRITING)
        self._registry.advance(schedule.name, latest, schedule.when)
        if count > 1:
            log.warning("%s: made up for the last of %d missed ticks", schedule.name, count)
        log.info("%s: sent the job of %s", schedule.name, latest.isoformat())
        return True

    def _last_tick(self, schedule: Schedule, now: datetime) -> datetime:
        """Return the tick after which the schedule goes on. One in the future is taken back."""
        # Another list may have been announced since this schedule was read: its last tick is not this one's.
        last = self._registry.last_tick(schedule.name, schedule.when) or now
        if last <= now + _AHEAD:
            return last
        healed = self._registry.heal(schedule.name, now, schedule.when) or now
        log.warning(
            "%s: its last tick is noted for %s, which is in the future: a clock was ahead. It goes on after %s",
            schedule.name,
            last.isoformat(),
            healed.isoformat(),
        )
        return healed

    def _warn_of_skipped(self, schedule: Schedule, last: datetime, oldest: datetime) -> None:
        """Name the ticks that are too late to be sent, once."""
        key = (schedule.name, schedule.when)
        after = max(last, self._skipped.get(key, last))
        skipped = list(islice(self._ticks(schedule, after, oldest), _MOST_COUNTED)) if after < oldest else []
        if not skipped:
            return
        self._skipped[key] = oldest
        first, latest, limit = skipped[0].isoformat(), skipped[-1].isoformat(), schedule.misfire
        if len(skipped) == 1:
            log.warning("%s: skipped the tick of %s: later than its misfire limit of %s", schedule.name, first, limit)
        else:
            text = "%s: skipped %d ticks, the first of %s, the last of %s: later than its misfire limit of %s"
            log.warning(text, schedule.name, len(skipped), first, latest, limit)

    @staticmethod
    def _ticks(schedule: Schedule, after: datetime, until: datetime) -> Iterator[datetime]:
        return takewhile(lambda tick: tick <= until, schedule.cron.ticks_after(after))
