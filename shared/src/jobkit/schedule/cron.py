"""Cron expressions with the whole five-field syntax, on top of periodiq's.

periodiq knows numbers, lists, ranges and steps, but takes Sunday for day 7 only, reads ``5/15`` as 5 and knows no names
of months. So each field is expanded here, by the rules of Vixie's cron (crontab(5)), and handed over as plain numbers.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

if TYPE_CHECKING:
    import periodiq  # type: ignore[import-untyped]  # it has no annotations; all that we use of it is in this file

_MACROS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_MONTHS = {
    name: n
    for n, name in enumerate(("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"), 1)
}
_DAYS = {name: n for n, name in enumerate(("sun", "mon", "tue", "wed", "thu", "fri", "sat"))}
_FIELDS: tuple[tuple[str, int, int, dict[str, int]], ...] = (
    ("minute", 0, 59, {}),
    ("hour", 0, 23, {}),
    ("day of month", 1, 31, {}),
    ("month", 1, 12, _MONTHS),
    ("day of week", 0, 7, _DAYS),
)
_ITEM = re.compile(r"(?P<range>\*|(?P<first>\w{1,9})(-(?P<last>\w{1,9}))?)(/(?P<step>\d{1,9}))?", re.ASCII)

#: 29 February comes at most eight years apart; an expression without a tick in that time has none.
_HORIZON = timedelta(days=366 * 9)

_MINUTE, _DAY = timedelta(minutes=1), timedelta(days=1)

#: The form of a name in the IANA database: relative words, so that no name leads out of its folder.
_ZONE_NAME = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*")

#: A tick that is this late is not sent any more, unless the schedule says otherwise.
MISFIRE_LIMIT: Final = timedelta(days=1)

#: A scheduler looks every ten seconds and may be replaced in between: a shorter limit would skip ticks in good order.
_SHORTEST_MISFIRE: Final = timedelta(minutes=1)


@dataclass(frozen=True)
class Cron:
    """When something runs: a cron expression in a time zone. Make one with ``cron()``.

    Where clocks change, it does as Debian's cron: a time that is skipped fires right after the gap, and one that is
    repeated fires once; but an expression whose minute or hour starts with a star goes by what the clock shows.

    Attributes:
        spec: The expression.
        timezone: Its name in the IANA database. The zone is read at its first use, as importing a module reads no file.
        misfire: How late a tick may be sent, after which it is skipped.
    """

    spec: str
    timezone: str = "UTC"
    misfire: timedelta = MISFIRE_LIMIT
    _cron: "periodiq.CronSpec" = field(init=False, repr=False, compare=False)
    _goes_by_clock: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not _ZONE_NAME.fullmatch(self.timezone):
            raise self._no_such_zone()
        if self.misfire < _SHORTEST_MISFIRE:
            raise ValueError(f"cron {self.spec!r}: misfire={self.misfire} must be a minute or more")
        texts = _MACROS.get(self.spec.strip().lower(), self.spec).lower().split()
        if len(texts) != len(_FIELDS):
            raise ValueError(f"cron {self.spec!r} must have five fields or be one of {', '.join(_MACROS)}")
        minute, hour, day, month, weekday = (
            _expand(self.spec, text, *meaning) for text, meaning in zip(texts, _FIELDS, strict=True)
        )
        import periodiq  # with all of pendulum, so only for services that have a schedule

        parsed = periodiq.CronSpec(m=minute, h=hour, dom=day, month=month, dow=sorted({d or 7 for d in weekday}))
        # Both restricted: either day will do. One of them starts with a star: both must match.
        parsed.is_dom_restricted = not texts[2].startswith("*")
        parsed.is_dow_restricted = not texts[4].startswith("*")
        object.__setattr__(self, "_cron", parsed)
        object.__setattr__(self, "_goes_by_clock", texts[0].startswith("*") or texts[1].startswith("*"))

    @property
    def zone(self) -> tzinfo:
        """The time zone.

        Raises:
            ValueError: There is none of that name, or this machine has no database of time zones.
        """
        if self.timezone == "UTC":  # which needs no database
            return UTC
        try:
            return ZoneInfo(self.timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: a folder of zones, such as "Europe"
            raise self._no_such_zone() from None

    def never_ticks(self) -> bool:
        """Whether no day within nine years matches, such as 30 February."""
        start = date(2024, 1, 1)  # any day will do
        return not any(self._is_day(start + n * _DAY) for n in range(_HORIZON // _DAY))

    def matches(self, local: datetime) -> bool:
        """Whether it ticks in the minute of ``local``, a wall-clock time in its own zone."""
        return bool(self._cron.validate(local))

    def next_after(self, moment: datetime) -> datetime | None:
        """The first tick later than ``moment`` (aware), in UTC; None if there is none within nine years."""
        return next(self.ticks_after(moment), None)

    def ticks_after(self, moment: datetime) -> Iterator[datetime]:
        """All ticks later than ``moment`` (aware), in order and in UTC; ends where none follows within nine years."""
        zone = self.zone
        day = moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        end = day + _HORIZON
        while day < end:
            for tick in self._ticks_of(day, zone):
                if tick > moment:
                    end = day + _HORIZON
                    yield tick
            day += _DAY

    def _ticks_of(self, start: datetime, zone: tzinfo) -> Iterator[datetime]:
        """The ticks of the UTC day that begins at ``start``."""
        if not any(self._is_day(start.date() + n * _DAY) for n in (-1, 0, 1)):
            return  # no zone is further from UTC
        before, first, last = ((start + span).astimezone(zone) for span in (-_MINUTE, timedelta(), _DAY - _MINUTE))
        offset = first.utcoffset() or timedelta()
        if not before.utcoffset() == offset == last.utcoffset():
            yield from self._ticks_around_change(start, zone)
            return
        for local in sorted({first.date(), last.date()}):
            if self._is_day(local):
                midnight = datetime(local.year, local.month, local.day, tzinfo=UTC) - offset
                for hour in self._cron.hour:
                    for minute in self._cron.minute:
                        tick = midnight + timedelta(hours=hour, minutes=minute)
                        if start <= tick < start + _DAY:
                            yield tick

    def _ticks_around_change(self, start: datetime, zone: tzinfo) -> Iterator[datetime]:
        """The same for a day on which the clock changes: minute by minute."""
        wall = _wall((start - _MINUTE).astimezone(zone))
        for instant in (start + n * _MINUTE for n in range(_DAY // _MINUTE)):
            local, wall_before = instant.astimezone(zone), wall
            wall = _wall(local)
            if self._goes_by_clock:
                ticks = self.matches(wall)
            elif local.fold:
                ticks = False  # the clock has shown this time before
            else:
                shown = max(1, (wall - wall_before) // _MINUTE)  # more than one if the clock has skipped some
                ticks = any(self.matches(wall - n * _MINUTE) for n in range(shown))
            if ticks:
                yield instant

    def _is_day(self, day: date) -> bool:
        return self.matches(datetime.combine(day, time(self._cron.hour[0], self._cron.minute[0])))

    def _no_such_zone(self) -> ValueError:
        return ValueError(
            f"cron {self.spec!r}: there is no time zone {self.timezone!r} on this machine: correct the name, or "
            "install the time zones (the package tzdata)"
        )


def _wall(local: datetime) -> datetime:
    return local.replace(tzinfo=None, fold=0)


def cron(spec: str, timezone: str = "UTC", *, misfire: timedelta = MISFIRE_LIMIT) -> Cron:
    """Return a schedule for an actor's declaration: ``periodic=cron("*/15 8-18 * * mon-fri", "Europe/Berlin")``.

    Five fields: minute (0-59), hour (0-23), day of month (1-31), month (1-12 or jan-dec), day of week (0-7 or sun-sat,
    both 0 and 7 being Sunday); each with ``*``, lists, ranges and steps; or ``@hourly``, ``@daily``, ``@weekly``,
    ``@monthly``, ``@yearly``.

    Args:
        spec: The expression.
        timezone: The time zone's name in the IANA database. An unknown name is refused when a worker starts.
        misfire: Skip a tick that no scheduler could send for this long, a minute or more.

    Raises:
        ValueError: The expression, the form of the zone's name or the limit is wrong. The text says where.
    """
    built = Cron(spec, timezone, misfire)
    if built.never_ticks():
        raise ValueError(f"cron {spec!r} never ticks: there is no such day")
    return built


def _expand(spec: str, text: str, name: str, lowest: int, highest: int, names: dict[str, int]) -> list[int]:
    values: set[int] = set()
    for item in text.split(","):
        match = _ITEM.fullmatch(item)
        if match is None:
            raise ValueError(f"cron {spec!r}: {item!r} is no {name}")
        if match["range"] == "*":
            first, last = lowest, highest
        else:
            first = _number(spec, match["first"], name, lowest, highest, names)
            # A lone number with a step runs to the end of the field: 5/15 is 5-59/15.
            alone = highest if match["step"] else first
            last = _number(spec, match["last"], name, lowest, highest, names) if match["last"] else alone
        if match["last"] == "sun" and first > 0:
            last = 7  # fri-sun
        if last < first:
            raise ValueError(f"cron {spec!r}: the range {item!r} of the {name} ends before it starts")
        step = int(match["step"] or 1)
        if step < 1:
            raise ValueError(f"cron {spec!r}: the step in {item!r} must be 1 or more")
        values.update(range(first, last + 1, step))
    return sorted(values)


def _number(spec: str, text: str, name: str, lowest: int, highest: int, names: dict[str, int]) -> int:
    number = names.get(text, int(text) if text.isdecimal() else -1)
    if not lowest <= number <= highest:
        raise ValueError(f"cron {spec!r}: {text!r} is no {name} ({lowest}-{highest})")
    return number
