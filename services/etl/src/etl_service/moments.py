"""Dates and times that are written as text: ISO 8601, or as a column's ``format`` says."""

import re

import polars as pl

#: Regular expressions of the directives in ``jobkit.contracts.etl.DIRECTIVES``; [0-9], as \\d matches every script.
_PARTS = {
    "Y": "(?<year>[0-9]{4})",
    "y": "(?<short>[0-9]{2})",
    "m": "(?<month>[0-9]{1,2})",
    "b": "(?<word>[A-Za-z]{3,9})[.]?",
    "B": "(?<word>[A-Za-z]{3,9})",
    "d": "(?<day>[0-9]{1,2})",
    "H": "(?<hour>[0-9]{1,2})",
    "I": "(?<half>0?[1-9]|1[0-2])",
    "p": "(?<noon>[AaPp])[.]?[Mm][.]?",
    "M": "(?<minute>[0-5]?[0-9])",
    "S": "(?<second>[0-5]?[0-9])",
    "f": "(?<fraction>[0-9]{1,9})",
    "z": "(?<zone>[Zz]|UTC|GMT|(?<sign>[+-])(?<hours>[01][0-9]|2[0-3])(?::?(?<minutes>[0-5][0-9]))?)",
    "%": "%",
}

_ZONE = r" ?(?<zone>[Zz]|UTC|GMT|(?<sign>[+-])(?<hours>[01][0-9]|2[0-3])(?::?(?<minutes>[0-5][0-9]))?)"
_ISO_DAY = r"(?<date>[0-9]{4}-[0-9]{2}-[0-9]{2})"
_ISO_TIME = (
    r"(?:[T ](?<clock>[0-9]{2}:[0-9]{2})(?::(?<second>[0-5][0-9])(?:[.,](?<fraction>[0-9]{1,9}))?)?"
    rf"(?:{_ZONE})?)?"
)
_ISO_DATE = rf"^{_ISO_DAY}(?:[T ]00:00(?::00(?:\.0+)?)?(?: ?(?:[Zz]|UTC|GMT))?)?$"
_ISO_TIMESTAMP = rf"^{_ISO_DAY}{_ISO_TIME}$"

_MONTHS = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
_MONTH_NUMBERS = {"sept": "09"} | {
    name: f"{number:02}" for number, month in enumerate(_MONTHS, 1) for name in (month, month[:3])
}

#: The first two-digit year of the 1900s, as POSIX has it for ``%y``.
_FIRST_OF_1900S = 69


def dates(text: pl.Expr, form: str | None) -> pl.Expr:
    """Return the dates in a column of texts, null where a text is none."""
    day = _Parts(text, _ISO_DATE if form is None else _pattern(form)).day().str.to_date("%Y-%m-%d", strict=False)
    return pl.when(day.dt.year() >= 1).then(day)


def timestamps(text: pl.Expr, form: str | None, zone: str | None) -> pl.Expr:
    """Return the moments in a column of texts in UTC, with microseconds; null where a text is none.

    A time without an offset is of the ``zone``, or of UTC. It is null if the zone has it twice or not at all.
    """
    parts = _Parts(text, _ISO_TIMESTAMP if form is None else _pattern(form))
    written = pl.format("{}T{}.{}", parts.day(), parts.clock(), parts.get("fraction", "0"))
    local = written.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", time_unit="us", strict=False)
    offset = pl.duration(hours=parts.number("hours"), minutes=parts.number("minutes"))
    utc = pl.when(parts.get("sign", "+") == "-").then(local + offset).otherwise(local - offset)
    if zone is not None:
        here = local.dt.replace_time_zone(zone, ambiguous="null", non_existent="null")
        utc = (
            pl.when(parts.get("zone").is_null())
            .then(here.dt.convert_time_zone("UTC").dt.replace_time_zone(None))
            .otherwise(utc)
        )
    return pl.when(utc.dt.year().is_between(1, 9999)).then(utc).dt.replace_time_zone("UTC")


def _pattern(form: str) -> str:
    """The regular expression of a column's ``format``."""
    parts = re.split("%(.)", form)
    return "^" + "".join(_PARTS[part] if n % 2 else re.escape(part) for n, part in enumerate(parts)) + "$"


class _Parts:
    """The named groups of a regular expression in a column of texts."""

    def __init__(self, text: pl.Expr, pattern: str) -> None:
        self._names = frozenset(re.findall(r"\(\?<([a-z]+)>", pattern))
        self._groups = text.str.extract_groups(pattern).struct

    def get(self, name: str, default: str | None = None) -> pl.Expr:
        """The group, or the default where it is not in the text."""
        if name not in self._names:
            return pl.lit(default, dtype=pl.String)
        group = self._groups.field(name)
        return group if default is None else group.fill_null(default)

    def number(self, name: str) -> pl.Expr:
        """The group as a number, 0 where it is not in the text."""
        return self.get(name, "0").cast(pl.Int64)

    def day(self) -> pl.Expr:
        """Year, month and day as in ISO 8601; null if the text does not match."""
        if "date" in self._names:
            return self.get("date")
        short = self.number("short")
        century = pl.when(short >= _FIRST_OF_1900S).then(pl.lit("19")).otherwise(pl.lit("20"))
        year = self.get("year") if "year" in self._names else pl.format("{}{}", century, self.get("short"))
        word = self.get("word").str.to_lowercase()
        named = word.replace_strict(_MONTH_NUMBERS, default=None, return_dtype=pl.String)
        month = named if "word" in self._names else self.get("month").str.zfill(2)
        return pl.format("{}-{}-{}", year, month, self.get("day").str.zfill(2))

    def clock(self) -> pl.Expr:
        """Hour, minute and second."""
        if "clock" in self._names:
            return pl.format("{}:{}", self.get("clock", "00:00"), self.get("second", "00"))
        hour = self.get("hour", "0").str.zfill(2)
        if "half" in self._names:
            afternoon = self.get("noon").str.to_lowercase() == "p"
            hour = (self.number("half") % 12 + pl.when(afternoon).then(12).otherwise(0)).cast(pl.String).str.zfill(2)
        minute, second = (self.get(name, "0").str.zfill(2) for name in ("minute", "second"))
        return pl.format("{}:{}:{}", hour, minute, second)
