"""The due time of a periodic job, for the job itself and for the factories that make its defaults."""

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

#: The jobs of ticks have ids in this namespace, so that two schedulers send the same job.
_TICKS: Final = uuid.UUID("a1c3a9a4-2c1d-5f6e-8a55-3f3d0b8f6f10")

#: The options of a message that carry its tick.
_SCHEDULE_OPTION, _TICK_OPTION = "schedule", "tick"


@dataclass(frozen=True, slots=True)
class Tick:
    """One due time of a schedule.

    Attributes:
        schedule: The schedule's name, ``<service>.<actor>``.
        due: When the job was due, in UTC.
    """

    schedule: str
    due: datetime

    @property
    def id(self) -> str:
        """The id of the tick's job."""
        return str(uuid.uuid5(_TICKS, f"{self.schedule}@{self._moment}"))

    @property
    def options(self) -> dict[str, str]:
        """The options of the message that carries the tick's job."""
        return {_SCHEDULE_OPTION: self.schedule, _TICK_OPTION: self._moment}

    @classmethod
    def of(cls, options: Mapping[str, object]) -> "Tick | None":
        """Return the tick in a message's options; None if the message is no schedule's."""
        schedule, moment = options.get(_SCHEDULE_OPTION), options.get(_TICK_OPTION)
        if not isinstance(schedule, str) or not isinstance(moment, str):
            return None
        try:
            due = datetime.fromisoformat(moment)
            return cls(schedule, due.astimezone(UTC)) if due.tzinfo else None
        except (ValueError, OverflowError):  # a sender may have written anything
            return None

    @property
    def _moment(self) -> str:
        return self.due.astimezone(UTC).isoformat()


_current: ContextVar[Tick | None] = ContextVar("jobkit_tick", default=None)


def due_time() -> datetime:
    """Return the due time of the periodic job that is being made or runs, in UTC. Outside of one, return the time now.

    >>> class DailyReport(Job, queue="reports"):                               # doctest: +SKIP
    ...     day: date = Field(default_factory=lambda: due_time().date())
    """
    tick = _current.get()
    return tick.due if tick else datetime.now(UTC)


@contextmanager
def during(tick: Tick | None) -> Iterator[None]:
    """Let ``due_time()`` tell the time of ``tick`` in this thread."""
    token = _current.set(tick)
    try:
        yield
    finally:
        _current.reset(token)
