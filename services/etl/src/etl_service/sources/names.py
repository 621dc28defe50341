"""Names of columns as people mean them, and as an error must show them."""

import unicodedata
from collections.abc import Iterable, Sequence

from etl_service.errors import SourceUnreadable
from jobkit.contracts.etl import Column

#: Characters of one error text that may go into names.
_LONGEST_LIST = 500


def clean(name: str) -> str:
    """Return the name without blanks and invisible characters at its ends, such as a byte order mark.

    Invisible are controls, formats (zero-width and direction marks) and separators of Unicode. Letters with accents
    are composed (NFC), as those of macOS look the same and are others.
    """
    if name.isascii() and name.isprintable():
        return name.strip()
    start, end = 0, len(name)
    while start < end and _invisible(name[start]):
        start += 1
    while end > start and _invisible(name[end - 1]):
        end -= 1
    return unicodedata.normalize("NFC", name[start:end])


def shown(names: Iterable[str]) -> str:
    """Return the names for an error: invisible characters as escapes, and not too many."""
    return ", ".join("".join(_visible(c) for c in name) for name in names)[:_LONGEST_LIST]


def positions_of(names: Sequence[str], columns: Sequence[Column], *, hint: str = "") -> list[int | None]:
    """Return where the job's columns stand among the cleaned names of the source; None if it may be absent and is.

    Raises:
        SourceUnreadable: a column is missing, or is there more than once. The text ends with ``hint``.
    """
    wanted = [clean(column.source) for column in columns]
    if repeated := sorted({name for name in wanted if names.count(name) > 1}):
        raise SourceUnreadable(f"the source names the columns {shown(repeated)} more than once")
    absent = [c.source for c, name in zip(columns, wanted, strict=True) if name not in names and not c.may_be_absent]
    if absent:
        raise SourceUnreadable(f"the source has no columns {shown(absent)}: it has {shown(names) or 'none'}{hint}")
    return [names.index(name) if name in names else None for name in wanted]


def _invisible(character: str) -> bool:
    return unicodedata.category(character) in {"Cc", "Cf", "Zs", "Zl", "Zp"}


def _visible(character: str) -> str:
    return character if character.isprintable() else ascii(character)[1:-1]
