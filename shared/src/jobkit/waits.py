"""Waits that use up no attempt, and how long they may last together."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from jobkit.errors import LONGEST_DELAY

#: One wait is 5, 10, 20, 40 s, then 60 s.
FIRST_WAIT: Final = timedelta(seconds=5)
LONGEST_WAIT: Final = timedelta(seconds=60)


@dataclass(frozen=True)
class Limits:
    """How long they may last.

    Attributes:
        excuse: Together, those for outages that the job has met by itself. After that they use up attempts.
        rollout: Together, those for a worker with a newer contract, or with the actor. After that the job is dead.
        retry_after: One wait that a ``TransientError`` asks for.
    """

    excuse: timedelta = timedelta(days=1)
    rollout: timedelta = timedelta(hours=1)
    retry_after: timedelta = timedelta(hours=1)


@dataclass(frozen=True)
class Wait:
    """The next wait, and the options with which the copy carries on the sum."""

    delay: timedelta
    options: Mapping[str, object]


def next_wait(options: Mapping[str, object], name: str, longest: timedelta) -> Wait | None:
    """Return the next wait of a message; None if its waits have lasted for ``longest``.

    Waits are added up in the option ``name``, so no two clocks are compared. What an outage of the broker adds to a
    wait is not counted.
    """
    said = options.get(name)
    known = isinstance(said, int) and 0 <= said < LONGEST_DELAY.total_seconds()
    waited = timedelta(seconds=said) if known and isinstance(said, int) else timedelta()
    if waited >= longest:
        return None
    delay = min(waited + FIRST_WAIT, LONGEST_WAIT, max(longest - waited, timedelta(seconds=1)))
    return Wait(delay, {name: math.ceil((waited + delay).total_seconds())})
