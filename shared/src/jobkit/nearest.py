"""The name that somebody may have meant."""

import re
from collections.abc import Iterable
from difflib import get_close_matches


def nearest(written: str, names: Iterable[str]) -> str | None:
    """Return the name that is most like ``written``, in whatever case and with whatever marks; None if none is."""
    plain = {_plain(name): name for name in names}
    found = get_close_matches(_plain(written), plain, n=1)
    return plain[found[0]] if found else None


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()
