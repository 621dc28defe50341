"""Where schedules are kept, so that the scheduler needs no service's code and no memory of its own."""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

from pydantic import TypeAdapter

from jobkit.schedule.schedule import Schedule
from jobkit.store.redis_client import RedisClient, lua

#: Workers announce every minute, so while old and new ones run side by side no list is silent for longer than that.
ROLLOUT: Final = timedelta(minutes=5)

#: The field of a dry run. No service and no schedule has a name like this.
_DRY_RUN: Final = "jobkit.access"
_NAMES: Final = TypeAdapter(list[str])

log = logging.getLogger(__name__)


class ScheduleRegistry(Protocol):
    """Keeps the schedules that services announce, and the last tick of each.

    A last tick belongs to a name together with its expression and time zone. It outlives announcements that do not
    have it for as long as ``ROLLOUT``, so old and new workers may announce different lists in turn.
    """

    def now(self) -> datetime:
        """Return the time by the clock of the store, which all workers and schedulers share."""

    def announce(
        self,
        service: str,
        schedules: Sequence[Schedule],
        now: datetime | None = None,
        *,
        actors: Sequence[str] | None = None,
    ) -> None:
        """Replace the service's schedules.

        One that is new, has a new expression or time zone, or was in no list for longer than ``ROLLOUT`` starts to tick
        from ``now``; all others go on after their last tick.

        Args:
            service: Whose schedules.
            schedules: All of them.
            now: The time; by default that of ``now()``.
            actors: All actors of the service, for commands that look jobs up.
        """

    def schedules(self) -> list[Schedule]:
        """All schedules that can be read, by name."""

    def last_tick(self, name: str, when: str | None = None) -> datetime | None:
        """Return the tick after which the schedule goes on, or when it started; None if nothing is known of it.

        Args:
            name: The schedule's name.
            when: Its ``Schedule.when``; by default that of the last announcement, which may be another worker's.
        """

    def last_sent(self, name: str, when: str | None = None) -> datetime | None:
        """Return the last tick whose job was sent; None if there is none. Arguments as ``last_tick``."""

    def advance(self, name: str, tick: datetime, when: str | None = None) -> None:
        """Note that ``tick`` was sent; never goes back, and does nothing for a schedule that is not known."""

    def heal(self, name: str, now: datetime, when: str | None = None) -> datetime | None:
        """Take back a last tick that is later than ``now``, and return the one that counts from now on.

        The clock was ahead when it was noted. The tick before it counts again, or ``now`` if that is later, too.
        """


@dataclass
class _Cursor:
    """How far the ticks of one expression were sent, and when it was announced last."""

    last: datetime
    seen: datetime
    round: int
    before: datetime | None = None  # the last tick before ``last``
    sent: datetime | None = None


class MemorySchedules:
    """Schedules in this process's memory."""

    def __init__(self) -> None:
        self._lists: dict[str, list[Schedule]] = {}
        self._rounds: dict[str, int] = {}
        self._when: dict[str, str] = {}
        self._cursors: dict[str, dict[str, _Cursor]] = {}

    def now(self) -> datetime:
        return datetime.now(UTC)

    def announce(
        self,
        service: str,
        schedules: Sequence[Schedule],
        now: datetime | None = None,
        *,
        actors: Sequence[str] | None = None,
    ) -> None:
        now = now or self.now()
        before = self._rounds.get(service, 0)
        self._lists[service], self._rounds[service] = list(schedules), before + 1
        for schedule in schedules:
            kept = {
                when: cursor
                for when, cursor in self._cursors.get(schedule.name, {}).items()
                if (when == schedule.when and cursor.round == before) or abs(now - cursor.seen) <= ROLLOUT
            }
            cursor = kept.setdefault(schedule.when, _Cursor(now, now, 0))
            cursor.seen, cursor.round = now, before + 1
            self._when[schedule.name], self._cursors[schedule.name] = schedule.when, kept

    def schedules(self) -> list[Schedule]:
        return sorted((s for one in self._lists.values() for s in one), key=lambda s: s.name)

    def last_tick(self, name: str, when: str | None = None) -> datetime | None:
        cursor = self._cursor(name, when)
        return cursor.last if cursor else None

    def last_sent(self, name: str, when: str | None = None) -> datetime | None:
        cursor = self._cursor(name, when)
        return cursor.sent if cursor else None

    def advance(self, name: str, tick: datetime, when: str | None = None) -> None:
        cursor = self._cursor(name, when)
        if cursor and tick > cursor.last:
            cursor.before, cursor.last, cursor.sent = cursor.last, tick, tick

    def heal(self, name: str, now: datetime, when: str | None = None) -> datetime | None:
        cursor = self._cursor(name, when)
        if cursor and cursor.last > now:
            cursor.last = cursor.before if cursor.before and cursor.before <= now else now
            cursor.before = None
        return cursor.last if cursor else None

    def _cursor(self, name: str, when: str | None) -> _Cursor | None:
        return self._cursors.get(name, {}).get(when or self._when.get(name, ""))


class RedisSchedules:
    """Schedules in the job store's Redis. Raises ``StoreUnavailable`` when it does not answer.

    Args:
        url: ``redis://user:password@host:port/database``.
        timeout: Seconds to connect, and seconds for an answer.
        namespace: ``JOBKIT_NAMESPACE`` of the workers that announce them.
    """

    def __init__(self, url: str, timeout: float = 2.0, namespace: str = "") -> None:
        self._client = RedisClient(url, timeout, namespace)
        self._lists, self._ticks, self._rounds, self._actors = (
            self._client.key(name) for name in ("schedules", "schedules:ticks", "schedules:rounds", "actors")
        )
        self._announce, self._advance, self._heal, self._try = (
            self._client.script(_script(name)) for name in ("announce", "advance", "heal", "try")
        )
        self._unreadable: set[str] = set()

    def now(self) -> datetime:
        seconds, microseconds = self._client.ask("TIME")
        return datetime.fromtimestamp(int(seconds), UTC).replace(microsecond=int(microseconds))

    def check(self) -> None:
        """Do what a scheduler does, without a trace; raises ``StoreUnavailable`` if Redis refuses it."""
        self.schedules()
        self.heal("", self.now())
        self._try([self._ticks], [_DRY_RUN])

    def check_announcing(self) -> None:
        """Do the same for what a worker does when it announces its schedules."""
        self.now()
        self.last_tick(_DRY_RUN)
        self._try([self._lists, self._ticks, self._rounds, self._actors], [_DRY_RUN])

    def announce(
        self,
        service: str,
        schedules: Sequence[Schedule],
        now: datetime | None = None,
        *,
        actors: Sequence[str] | None = None,
    ) -> None:
        text = json.dumps([asdict(schedule) for schedule in schedules])
        names = [part for schedule in schedules for part in (schedule.name, schedule.when)]
        moment = str(now.timestamp()) if now else ""
        known = "" if actors is None else json.dumps(list(actors))
        args = [service, text, moment, str(ROLLOUT.total_seconds()), known, *names]
        self._announce([self._lists, self._ticks, self._rounds, self._actors], args)

    def schedules(self) -> list[Schedule]:
        lists = self._client.ask("HGETALL", self._lists)
        found = (s for service, text in lists.items() for s in self._read(service.decode(errors="replace"), text))
        return sorted(found, key=lambda s: s.name)

    def services(self) -> list[str]:
        """All services whose workers have ever announced their schedules, be it that they have none."""
        return sorted(name.decode(errors="replace") for name in self._client.ask("HKEYS", self._lists))

    def actors(self) -> dict[str, list[str]]:
        """Return the actors that workers have announced, by service."""
        found = {}
        for service, text in self._client.ask("HGETALL", self._actors).items():
            with suppress(ValueError):  # a newer version or a hand may have written it
                found[service.decode(errors="replace")] = _NAMES.validate_json(text)
        return found

    def last_tick(self, name: str, when: str | None = None) -> datetime | None:
        return self._moment(name, when, "last")

    def last_sent(self, name: str, when: str | None = None) -> datetime | None:
        return self._moment(name, when, "sent")

    def advance(self, name: str, tick: datetime, when: str | None = None) -> None:
        self._advance([self._ticks], [name, when or "", str(tick.timestamp())])

    def heal(self, name: str, now: datetime, when: str | None = None) -> datetime | None:
        last = self._heal([self._ticks], [name, when or "", str(now.timestamp())])
        return _read_moment(last.decode()) if last else None

    def _moment(self, name: str, when: str | None, field: str) -> datetime | None:
        value = self._client.ask("HGET", self._ticks, name)
        known = json.loads(value) if value else {"when": None, "cursors": {}}
        return _read_moment(known["cursors"].get(when or known["when"], {}).get(field))

    def _read(self, service: str, text: bytes) -> Iterator[Schedule]:
        """The schedules in a service's list, which a newer version or a hand may have written."""
        try:
            entries = json.loads(text)
        except ValueError:
            entries = None
        if not isinstance(entries, list):
            self._complain(f"what {service} has announced is no list in JSON, so its schedules do not run")
            return
        for entry in entries:
            try:
                yield Schedule.read(entry)
            except ValueError as error:
                name = entry.get("name") if isinstance(entry, dict) else entry
                self._complain(f"the schedule {name!r} of {service} cannot be read and does not run: {error}")

    def _complain(self, text: str) -> None:
        if text not in self._unreadable:  # it is read again every few seconds
            self._unreadable.add(text)
            log.error(text)


def _read_moment(text: str | None) -> datetime | None:
    return datetime.fromtimestamp(float(text), UTC) if text else None


def _script(name: str) -> str:
    return lua("jobkit.schedule", "prelude", name)
