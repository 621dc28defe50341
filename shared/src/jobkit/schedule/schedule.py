"""A job and when it runs, as the registry keeps it."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Final, Self

from dramatiq import Message
from pydantic import TypeAdapter, ValidationError

from jobkit.contracts.job import CONTRACT_VERSION_OPTION, Job
from jobkit.contracts.payload import payload_of
from jobkit.contracts.tick import Tick, during
from jobkit.defaults import refuse_what_cannot_be_periodic
from jobkit.schedule.cron import MISFIRE_LIMIT, Cron, cron

_CENTURY: Final = timedelta(days=36_525)


@dataclass(frozen=True)
class Schedule:
    """A job and when it runs.

    Attributes:
        name: ``<service>.<actor>``. The ids of its jobs follow from it.
        payload: The fields that the announcement sets: none. Defaults are made for each tick, by the worker that runs
            its job: one that was made with the announcement would be the same at every tick.
        misfire_seconds: How late a tick may be sent.
    """

    _contract: ClassVar[type[Job] | None] = None  # where it was declared; a schedule that was announced has none

    name: str
    service: str
    actor: str
    queue: str
    payload: dict[str, Any]  # Any: a contract's fields as JSON
    version: int
    spec: str
    timezone: str
    misfire_seconds: float = MISFIRE_LIMIT.total_seconds()

    def __post_init__(self) -> None:
        for field in ("name", "service", "actor", "queue"):
            # Schedules without a name would share the ids of their jobs, and one job would run for all of them.
            text = getattr(self, field)
            if not text.strip() or not text.isprintable():
                raise ValueError(f"{field}={text!r} of a schedule must be printable text that is not blank")
        if not 0 < self.misfire_seconds < _CENTURY.total_seconds():
            raise ValueError(f"misfire_seconds={self.misfire_seconds} of a schedule must be less than a century")

    @classmethod
    def of(cls, service: str, contract: type[Job], periodic: Cron) -> Self:
        """Return the schedule that an actor's declaration asks for.

        Raises:
            ValueError: The time zone is unknown, or the schedule has no usable name.
        """
        refuse_what_cannot_be_periodic(contract)
        periodic.zone  # noqa: B018  reads the zone, so that an unknown one is refused here
        schedule = cls(
            name=f"{service}.{contract.actor}",
            service=service,
            actor=contract.actor,
            queue=contract.queue,
            payload={},
            version=contract.version,
            spec=periodic.spec,
            timezone=periodic.timezone,
            misfire_seconds=periodic.misfire.total_seconds(),
        )
        object.__setattr__(schedule, "_contract", contract)
        return schedule

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
        written = cron(schedule.spec, schedule.timezone, misfire=schedule.misfire)
        written.zone  # noqa: B018  the same
        return schedule

    @property
    def cron(self) -> Cron:
        """When it ticks."""
        return Cron(self.spec, self.timezone, self.misfire)

    @property
    def misfire(self) -> timedelta:
        """How late a tick may be sent."""
        return timedelta(seconds=self.misfire_seconds)

    @property
    def when(self) -> str:
        """Expression and time zone: two schedules with the same text have the same ticks."""
        return f"{self.spec} {self.timezone}"

    def message(self, due: datetime) -> Message[Any]:
        """Return the message for one tick.

        Everything in it follows from the schedule and the due time. Where the contract is known, as in a test, it also
        holds the tick's defaults.
        """
        tick = Tick(self.name, due.astimezone(UTC))
        options: dict[str, Any] = dict(tick.options)
        if self.version > 1:
            options[CONTRACT_VERSION_OPTION] = self.version
        return Message(
            queue_name=self.queue,
            actor_name=self.actor,
            args=(),
            kwargs=self._payload(tick),
            options=options,
            message_id=tick.id,
            message_timestamp=int(due.timestamp() * 1000),
        )

    def _payload(self, tick: Tick) -> dict[str, Any]:
        if self._contract is None:
            return self.payload
        with during(tick):
            return {**payload_of(self._contract()), **self.payload}


_READER: Final = TypeAdapter(Schedule)
