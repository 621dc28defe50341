"""Where it is kept which breakers are open, so that all workers pause and one job probes."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

#: Begins the second part of the names of breakers that ``exercise_switches`` opens for a moment.
DRY_RUN: Final = "jobkit.access-"


@dataclass(frozen=True, slots=True)
class Closed:
    """Jobs run."""


@dataclass(frozen=True, slots=True)
class Open:
    """Jobs wait; ask again after ``wait``."""

    wait: timedelta


@dataclass(frozen=True, slots=True)
class Probe:
    """The pause is over, and this job is the one that finds out."""


@dataclass(frozen=True, slots=True)
class Tripped:
    """The breaker is open for ``wait``; ``anew`` if it is this call that has opened it, or has opened it again."""

    wait: timedelta
    anew: bool


@dataclass(frozen=True, slots=True)
class OpenBreaker:
    """A breaker that is not closed, for people.

    Attributes:
        name: ``<service>/<name>``.
        since: When it was opened. Probes that failed since then do not change it.
        probe_in: After what time the next job may probe; 0 if the pause is over.
        probing: Whether a job probes now.
        reason: The last failure that spoke against the dependency.
    """

    name: str
    since: datetime
    probe_in: timedelta
    probing: bool
    reason: str


class Switches(Protocol):
    """The state of all breakers, by name. Each method is atomic, and may be repeated with the same arguments.

    Raises ``StoreUnavailable`` when it cannot be reached. Implemented here for one process and in
    ``jobkit.breaker.redis`` for all; ``tests/contract/test_breaker_switches.py`` is what any further one has to pass.
    """

    def ask(self, name: str, owner: str, *, probe_for: timedelta) -> Closed | Open | Probe:
        """Whether ``owner`` may run a job. The first to ask after the pause probes, and has ``probe_for`` to do so."""

    def look(self, name: str) -> timedelta | None:
        """How long the breaker stays open at least, 0 if a probe is due or on its way; None if it is closed."""

    def trip(self, name: str, owner: str, *, pause: timedelta, longest: timedelta, reason: str = "") -> Tripped:
        """Open the breaker, because of ``reason``; twice as long as last time if ``owner`` was its probe.

        Changes nothing if it is open.
        """

    def close(self, name: str, owner: str) -> bool:
        """Close the breaker, if ``owner`` was its probe."""

    def give_up_probe(self, name: str, owner: str) -> None:
        """The probe has found out nothing: let the next job probe."""

    def opened(self) -> list[OpenBreaker]:
        """All breakers that are not closed, by name, without those of a dry run."""

    def reset(self, name: str) -> bool:
        """Close the breaker, whoever probes; False if it is closed."""


def is_dry_run(name: str) -> bool:
    """Whether a breaker of this name belongs to a dry run."""
    return name.partition("/")[2].startswith(DRY_RUN)


@dataclass(slots=True)
class _Row:
    pause: float
    until: float
    since: datetime
    reason: str
    probe: str = ""
    probe_until: float = 0.0


class MemorySwitches:
    """Switches in this process's memory."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rows: dict[str, _Row] = {}
        self._lock = threading.Lock()

    def ask(self, name: str, owner: str, *, probe_for: timedelta) -> Closed | Open | Probe:
        with self._lock:
            row, now = self._rows.get(name), self._clock()
            if row is None:
                return Closed()
            if row.until > now:
                return Open(timedelta(seconds=row.until - now))
            if row.probe_until > now and row.probe != owner:
                return Open(timedelta(seconds=min(row.probe_until - now, row.pause)))
            row.probe, row.probe_until = owner, now + probe_for.total_seconds()
            return Probe()

    def look(self, name: str) -> timedelta | None:
        with self._lock:
            row = self._rows.get(name)
            return timedelta(seconds=max(0.0, row.until - self._clock())) if row else None

    def trip(self, name: str, owner: str, *, pause: timedelta, longest: timedelta, reason: str = "") -> Tripped:
        with self._lock:
            row, now = self._rows.get(name), self._clock()
            if row is not None and row.probe != owner:
                return Tripped(timedelta(seconds=max(0.0, row.until - now)), anew=False)
            seconds = pause.total_seconds() if row is None else min(2 * row.pause, longest.total_seconds())
            since = datetime.now(UTC) if row is None else row.since
            self._rows[name] = _Row(seconds, now + seconds, since, reason)
            return Tripped(timedelta(seconds=seconds), anew=True)

    def close(self, name: str, owner: str) -> bool:
        with self._lock:
            row = self._rows.get(name)
            if row is None or row.probe != owner:
                return False
            del self._rows[name]
            return True

    def give_up_probe(self, name: str, owner: str) -> None:
        with self._lock:
            row = self._rows.get(name)
            if row is not None and row.probe == owner:
                row.probe, row.probe_until = "", 0.0

    def opened(self) -> list[OpenBreaker]:
        with self._lock:
            now = self._clock()
            return [
                OpenBreaker(
                    name, row.since, timedelta(seconds=max(0.0, row.until - now)), row.probe_until > now, row.reason
                )
                for name, row in sorted(self._rows.items())
                if not is_dry_run(name)
            ]

    def reset(self, name: str) -> bool:
        with self._lock:
            return self._rows.pop(name, None) is not None
