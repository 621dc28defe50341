"""Where schedules are kept, so that the scheduler needs no service's code and no memory of its own."""

import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, Protocol, Self, TypeVar

from dramatiq import Message
from redis.exceptions import RedisError

from jobkit.contracts.job import CONTRACT_VERSION_OPTION, Job
from jobkit.errors import StoreUnavailable
from jobkit.schedule.cron import Cron
from jobkit.store.redis import connect, describe

T = TypeVar("T")

#: The jobs of ticks get ids in this namespace, so that two schedulers send the same job.
_TICKS: Final = uuid.UUID("a1c3a9a4-2c1d-5f6e-8a55-3f3d0b8f6f10")

_LISTS, _LAST = "jobkit:schedules", "jobkit:schedules:last"

_ADVANCE = """
local last = tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or 0)
if tonumber(ARGV[2]) > last then redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) end
"""


@dataclass(frozen=True)
class Schedule:
    """A job and when it runs."""

    name: str
    service: str
    actor: str
    queue: str
    payload: dict[str, Any]  # Any: a contract's fields as JSON
    version: int
    spec: str
    timezone: str

    @classmethod
    def of(cls, service: str, contract: type[Job], periodic: Cron) -> Self:
        """The schedule that an actor's declaration asks for."""
        return cls(
            name=f"{service}.{contract.actor}",
            service=service,
            actor=contract.actor,
            queue=contract.queue,
            payload=contract().model_dump(mode="json"),
            version=contract.version,
            spec=periodic.spec,
            timezone=periodic.timezone,
        )

    @property
    def cron(self) -> Cron:
        """When it ticks."""
        return Cron(self.spec, self.timezone)

    def message(self, tick: datetime) -> Message[Any]:
        """The message for one tick; everything in it follows from the schedule and the tick."""
        moment = tick.astimezone(UTC).isoformat()
        options: dict[str, Any] = {"schedule": self.name, "tick": moment}
        if self.version > 1:
            options[CONTRACT_VERSION_OPTION] = self.version
        return Message(
            queue_name=self.queue,
            actor_name=self.actor,
            args=(),
            kwargs=self.payload,
            options=options,
            message_id=str(uuid.uuid5(_TICKS, f"{self.name}@{moment}")),
            message_timestamp=int(tick.timestamp() * 1000),
        )


class ScheduleRegistry(Protocol):
    """Keeps the schedules that services announce, and the last tick of each that was sent."""

    def announce(self, service: str, schedules: Sequence[Schedule], now: datetime) -> None:
        """Replace the service's schedules; a new one starts to tick from ``now``."""

    def schedules(self) -> list[Schedule]:
        """All schedules, by name."""

    def last_tick(self, name: str) -> datetime | None:
        """The last tick that was sent, or when the schedule was first announced."""

    def advance(self, name: str, tick: datetime) -> None:
        """Note that ``tick`` was sent; never goes back."""


class MemorySchedules:
    """Schedules in this process's memory."""

    def __init__(self) -> None:
        self._lists: dict[str, list[Schedule]] = {}
        self._last: dict[str, datetime] = {}

    def announce(self, service: str, schedules: Sequence[Schedule], now: datetime) -> None:
        self._lists[service] = list(schedules)
        for schedule in schedules:
            self._last.setdefault(schedule.name, now)

    def schedules(self) -> list[Schedule]:
        return sorted((s for one in self._lists.values() for s in one), key=lambda s: s.name)

    def last_tick(self, name: str) -> datetime | None:
        return self._last.get(name)

    def advance(self, name: str, tick: datetime) -> None:
        self._last[name] = max(tick, self._last.get(name, tick))


class RedisSchedules:
    """Schedules in the job store's Redis. Raises ``StoreUnavailable`` when it does not answer."""

    def __init__(self, url: str, timeout: float = 2.0) -> None:
        self._url = url
        self._client = connect(url, timeout)
        self._advance = self._client.register_script(_ADVANCE)

    def announce(self, service: str, schedules: Sequence[Schedule], now: datetime) -> None:
        text = json.dumps([asdict(schedule) for schedule in schedules])
        self._call(lambda: self._client.hset(_LISTS, service, text))
        for name in [schedule.name for schedule in schedules]:
            self._call(partial(self._client.hsetnx, _LAST, name, str(now.timestamp())))

    def schedules(self) -> list[Schedule]:
        lists = self._call(lambda: self._client.hvals(_LISTS))
        return sorted((Schedule(**one) for text in lists for one in json.loads(text)), key=lambda s: s.name)

    def last_tick(self, name: str) -> datetime | None:
        value = self._call(lambda: self._client.hget(_LAST, name))
        return datetime.fromtimestamp(float(value), UTC) if value is not None else None

    def advance(self, name: str, tick: datetime) -> None:
        self._call(lambda: self._advance(keys=[_LAST], args=[name, str(tick.timestamp())]))

    # Any: redis-py types every answer as one union for the sync and the async client.
    def _call(self, command: Callable[[], Any]) -> Any:
        try:
            return command()
        except RedisError as error:
            raise StoreUnavailable(describe(error, self._url)) from error
