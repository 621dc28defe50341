"""Cron expressions with the whole five-field syntax, on top of periodiq's.

periodiq knows numbers, lists, ranges and steps, but takes Sunday for day 7 only, reads ``5/15`` as 5 and knows no names
of months. So each field is expanded here, by the rules of Vixie's cron (crontab(5)), and handed over as plain numbers.
"""

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

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
_ITEM = re.compile(r"(?P<range>\*|(?P<first>\w+)(-(?P<last>\w+))?)(/(?P<step>\d+))?")

#: 29 February comes at most eight years apart; an expression without a tick in that time has none.
_HORIZON = timedelta(days=366 * 9)


@dataclass(frozen=True)
class Cron:
    """When something runs: a cron expression in a time zone. Make one with ``cron()``.

    An hour that a clock change repeats fires once, and one that it skips fires right after the gap; expressions that
    run every hour go by elapsed time instead and notice neither (as in Debian's cron).
    """

    spec: str
    timezone: str = "UTC"
    _cron: periodiq.CronSpec = field(init=False, repr=False, compare=False)
    _every_hour: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        try:
            ZoneInfo(self.timezone)
        except (ZoneInfoNotFoundError, ValueError):
            raise ValueError(f"cron {self.spec!r}: there is no time zone {self.timezone!r}") from None
        texts = _MACROS.get(self.spec.strip().lower(), self.spec).lower().split()
        if len(texts) != len(_FIELDS):
            raise ValueError(f"cron {self.spec!r} must have five fields or be one of {', '.join(_MACROS)}")
        minute, hour, day, month, weekday = (
            _expand(self.spec, text, *meaning) for text, meaning in zip(texts, _FIELDS, strict=True)
        )
        parsed = periodiq.CronSpec(m=minute, h=hour, dom=day, month=month, dow=sorted({d or 7 for d in weekday}))
        # Both restricted: either day will do. One of them starts with a star: both must match.
        parsed.is_dom_restricted = not texts[2].startswith("*")
        parsed.is_dow_restricted = not texts[4].startswith("*")
        object.__setattr__(self, "_cron", parsed)
        object.__setattr__(self, "_every_hour", len(hour) == 24)

    def matches(self, local: datetime) -> bool:
        """Whether it ticks in the minute of ``local``, a wall-clock time in its own zone."""
        return bool(self._cron.validate(local))

    def next_after(self, moment: datetime) -> datetime | None:
        """The first tick later than ``moment`` (aware), in UTC; None if there is none within nine years."""
        zone = ZoneInfo(self.timezone)
        instant = moment.astimezone(UTC).replace(second=0, microsecond=0) + timedelta(minutes=1)
        end = instant + _HORIZON
        while instant < end:
            local = instant.astimezone(zone)
            if self._ticks(local, (instant - timedelta(minutes=1)).astimezone(zone)):
                return instant
            instant = self._skip(instant, local)
        return None

    def _ticks(self, local: datetime, before: datetime) -> bool:
        wall, wall_before = local.replace(tzinfo=None, fold=0), before.replace(tzinfo=None, fold=0)
        if self._every_hour:
            return self.matches(wall)
        if local.fold:
            return False  # this hour has been before
        if self.matches(wall):
            return True
        missing = int((wall - wall_before) / timedelta(minutes=1)) - 1
        return any(self.matches(wall_before + timedelta(minutes=n + 1)) for n in range(max(0, missing)))

    def _skip(self, instant: datetime, local: datetime) -> datetime:
        """The next instant worth a look: a day or hour without ticks is passed over, short of its end."""
        day = datetime(local.year, local.month, local.day)  # noqa: DTZ001  a wall-clock date
        day_may_tick = local.month in self._cron.month and any(
            self.matches(day.replace(hour=h, minute=m)) for h in self._cron.hour[:1] for m in self._cron.minute[:1]
        )
        if not day_may_tick and local.hour < 20:
            return instant + timedelta(hours=1, minutes=-local.minute)
        return instant + timedelta(minutes=1)


def cron(spec: str, timezone: str = "UTC") -> Cron:
    """A schedule for an actor's declaration: ``periodic=cron("*/15 8-18 * * mon-fri", "Europe/Berlin")``.

    Five fields: minute (0-59), hour (0-23), day of month (1-31), month (1-12 or jan-dec), day of week (0-7 or sun-sat,
    both 0 and 7 being Sunday); each with ``*``, lists, ranges and steps; or ``@hourly``, ``@daily``, ``@weekly``,
    ``@monthly``, ``@yearly``.

    Raises:
        ValueError: the expression or the time zone is wrong; the text says where.
    """
    return Cron(spec, timezone)


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
        if names is _DAYS and match["last"] == "sun":
            last = 7
        if last < first:
            raise ValueError(f"cron {spec!r}: the range {item!r} of the {name} ends before it starts")
        step = int(match["step"] or 1)
        if step < 1:
            raise ValueError(f"cron {spec!r}: the step in {item!r} must be 1 or more")
        if names is _DAYS and last == highest and (match["range"] == "*" or not match["last"]) and first != 7:
            last = 6  # 0 and 7 are one day: a star or an open range must not count it twice
        values.update(range(first, last + 1, step))
    return sorted(values)


def _number(spec: str, text: str, name: str, lowest: int, highest: int, names: dict[str, int]) -> int:
    number = names.get(text, int(text) if text.isdecimal() else -1)
    if not lowest <= number <= highest:
        raise ValueError(f"cron {spec!r}: {text!r} is no {name} ({lowest}-{highest})")
    return number
