"""A job and when it runs, as the registry keeps it."""

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Self

from dramatiq import Message
from pydantic import TypeAdapter, ValidationError

from jobkit.contracts.job import CONTRACT_VERSION_OPTION, Job
from jobkit.schedule.cron import Cron, cron

#: The jobs of ticks get ids in this namespace, so that two schedulers send the same job.
_TICKS: Final = uuid.UUID("a1c3a9a4-2c1d-5f6e-8a55-3f3d0b8f6f10")


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

    @classmethod
    def read(cls, entry: object) -> "Schedule":
        """The schedule that a worker of any version has announced; fields that are not known here are ignored.

        Raises:
            ValueError: a field is missing or of the wrong type, or the expression or the time zone is wrong.
        """
        try:
            schedule = _READER.validate_python(entry)
        except ValidationError as error:
            wrong = (f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
            raise ValueError("; ".join(wrong)) from error
        cron(schedule.spec, schedule.timezone)
        return schedule

    @property
    def cron(self) -> Cron:
        """When it ticks."""
        return Cron(self.spec, self.timezone)

    @property
    def when(self) -> str:
        """Expression and time zone: two schedules with the same text have the same ticks."""
        return f"{self.spec} {self.timezone}"

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


_READER: Final = TypeAdapter(Schedule)
