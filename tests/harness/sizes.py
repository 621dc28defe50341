"""The size of a proof: small in ``make test``, large in ``make prove``."""

import os

#: Whether this is ``make prove``.
LARGE = os.environ.get("PROVE") == "1"


def size(small: int, large: int) -> int:
    """Return the number that applies in this run."""
    return large if LARGE else small
