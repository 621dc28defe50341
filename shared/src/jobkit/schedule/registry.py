"""Where schedules are kept, so that the scheduler needs no service's code and no memory of its own."""

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

from jobkit.schedule.schedule import Schedule
from jobkit.store.redis_client import RedisClient

#: Workers announce every minute, so while old and new ones run side by side no list is silent for longer than that.
ROLLOUT: Final = timedelta(minutes=5)

_LISTS, _TICKS, _ROUNDS = "jobkit:schedules", "jobkit:schedules:ticks", "jobkit:schedules:rounds"

# _TICKS has one JSON object per name: "when" is what was announced last, "cursors" has for each expression the last
# tick, the last announcement and its round. Numbers are text, as Lua's JSON would round them. One script, because two
# workers may announce different lists at once.
_ANNOUNCE = """
local was_listed = redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1
local round = redis.call('HINCRBY', KEYS[3], ARGV[1], 1)
local now, rollout = ARGV[3], tonumber(ARGV[4])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
for i = 5, #ARGV, 2 do
  local name, when = ARGV[i], ARGV[i + 1]
  local readable, known = pcall(cjson.decode, redis.call('HGET', KEYS[2], name) or '')
  local cursors = readable and type(known) == 'table' and known.cursors or {}
  local kept = {}
  for other, cursor in pairs(cursors) do
    local listed = other == when and was_listed and tonumber(cursor.round) == round - 1
    if listed or tonumber(now) - tonumber(cursor.seen) <= rollout then kept[other] = cursor end
  end
  local last = kept[when] and kept[when].last or now
  kept[when] = {last = last, seen = now, round = tostring(round)}
  redis.call('HSET', KEYS[2], name, cjson.encode({when = when, cursors = kept}))
end
"""

_ADVANCE = """
local readable, known = pcall(cjson.decode, redis.call('HGET', KEYS[1], ARGV[1]) or '')
if not readable then return end
local cursor = known.cursors[ARGV[3] ~= '' and ARGV[3] or known.when]
if cursor and tonumber(ARGV[2]) > tonumber(cursor.last) then
  cursor.last = ARGV[2]
  redis.call('HSET', KEYS[1], ARGV[1], cjson.encode(known))
end
"""

log = logging.getLogger(__name__)


class ScheduleRegistry(Protocol):
    """Keeps the schedules that services announce, and the last tick of each that was sent.

    A last tick belongs to a name together with its expression and time zone. It outlives announcements that do not
    have it for as long as ``ROLLOUT``, so old and new workers may announce different lists in turn.
    """

    def announce(self, service: str, schedules: Sequence[Schedule], now: datetime) -> None:
        """Replace the service's schedules.

        One that is new, has a new expression or time zone, or was in no list for longer than ``ROLLOUT`` starts to tick
        from ``now``; all others go on after their last tick.
        """

    def schedules(self) -> list[Schedule]:
        """All schedules that can be read, by name."""

    def last_tick(self, name: str, when: str | None = None) -> datetime | None:
        """The last tick that was sent, or when the schedule started; None if nothing is known of it.

        Args:
            name: The schedule's name.
            when: Its ``Schedule.when``; by default that of the last announcement, which may be another worker's.
        """

    def advance(self, name: str, tick: datetime, when: str | None = None) -> None:
        """Note that ``tick`` was sent; never goes back, and does nothing for a schedule that is not known."""


@dataclass
class _Cursor:
    """How far the ticks of one expression were sent, and when it was announced last."""

    last: datetime
    seen: datetime
    round: int


class MemorySchedules:
    """Schedules in this process's memory."""

    def __init__(self) -> None:
        self._lists: dict[str, list[Schedule]] = {}
        self._rounds: dict[str, int] = {}
        self._when: dict[str, str] = {}
        self._cursors: dict[str, dict[str, _Cursor]] = {}

    def announce(self, service: str, schedules: Sequence[Schedule], now: datetime) -> None:
        before = self._rounds.get(service, 0)
        self._lists[service], self._rounds[service] = list(schedules), before + 1
        for schedule in schedules:
            kept = {
                when: cursor
                for when, cursor in self._cursors.get(schedule.name, {}).items()
                if (when == schedule.when and cursor.round == before) or now - cursor.seen <= ROLLOUT
            }
            last = kept[schedule.when].last if schedule.when in kept else now
            kept[schedule.when] = _Cursor(last, now, before + 1)
            self._when[schedule.name], self._cursors[schedule.name] = schedule.when, kept

    def schedules(self) -> list[Schedule]:
        return sorted((s for one in self._lists.values() for s in one), key=lambda s: s.name)

    def last_tick(self, name: str, when: str | None = None) -> datetime | None:
        cursor = self._cursor(name, when)
        return cursor.last if cursor else None

    def advance(self, name: str, tick: datetime, when: str | None = None) -> None:
        cursor = self._cursor(name, when)
        if cursor:
            cursor.last = max(tick, cursor.last)

    def _cursor(self, name: str, when: str | None) -> _Cursor | None:
        return self._cursors.get(name, {}).get(when or self._when.get(name, ""))


class RedisSchedules:
    """Schedules in the job store's Redis. Raises ``StoreUnavailable`` when it does not answer."""

    def __init__(self, url: str, timeout: float = 2.0) -> None:
        self._client = RedisClient(url, timeout)
        self._announce = self._client.script(_ANNOUNCE)
        self._advance = self._client.script(_ADVANCE)
        self._unreadable: set[str] = set()

    def announce(self, service: str, schedules: Sequence[Schedule], now: datetime) -> None:
        text = json.dumps([asdict(schedule) for schedule in schedules])
        names = [part for schedule in schedules for part in (schedule.name, schedule.when)]
        args = [service, text, str(now.timestamp()), str(ROLLOUT.total_seconds()), *names]
        self._announce([_LISTS, _TICKS, _ROUNDS], args)

    def schedules(self) -> list[Schedule]:
        lists = self._client.ask("HGETALL", _LISTS)
        found = (s for service, text in lists.items() for s in self._read(service.decode(errors="replace"), text))
        return sorted(found, key=lambda s: s.name)

    def services(self) -> list[str]:
        """All services whose workers have ever announced their schedules, be it that they have none."""
        return sorted(name.decode(errors="replace") for name in self._client.ask("HKEYS", _LISTS))

    def last_tick(self, name: str, when: str | None = None) -> datetime | None:
        value = self._client.ask("HGET", _TICKS, name)
        known = json.loads(value) if value else {"when": None, "cursors": {}}
        cursor = known["cursors"].get(when or known["when"])
        return datetime.fromtimestamp(float(cursor["last"]), UTC) if cursor else None

    def advance(self, name: str, tick: datetime, when: str | None = None) -> None:
        self._advance([_TICKS], [name, str(tick.timestamp()), when or ""])

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
