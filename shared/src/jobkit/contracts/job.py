"""The base of every contract: a payload, the queue that it goes to and the actor that runs it."""

import re
from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from jobkit.contracts.declaration import refuse_fields_that_cannot_travel, refuse_taken_names

#: The message option that carries the contract's version; a message without it is version 1.
CONTRACT_VERSION_OPTION = "contract_version"

#: Dots separate a service from its queues and lanes (``inference.training``), so a name may hold them.
_QUEUE_NAME = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*")

#: In ``FetchHTTPPage``: before a capital that follows a small letter, and before the last capital of several.
_WORD_BOUNDARY = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")

_LANE_NAME = re.compile(r"[a-z][a-z0-9_]{0,30}")

#: The default lane of a contract that does not name one.
_NORMAL = "normal"

#: The service whose queues and exchanges are jobkit's own: the delay ladder, and what no queue takes.
PLATFORM = "jobkit"

#: Names that no service may have: ``due.email`` is the queue for delayed jobs of ``email`` that are due.
TAKEN_SERVICES = frozenset({PLATFORM, "due"})

#: The last word of a service's dead-letter queue, which no queue or lane may take.
_DEAD_LETTERS = "dlq"


def service_of(queue: str) -> str:
    """The service that a queue or lane belongs to: its name up to the first dot."""
    return queue.partition(".")[0]


class Job(BaseModel):
    """One kind of job: what a producer sends, and what the actor of the same name receives.

    >>> class BuildReport(Job, queue="reports"):
    ...     account: str
    >>> BuildReport.actor, BuildReport.queue
    ('build_report', 'reports')

    Unknown fields are refused, so that a misspelt one fails at the producer.

    Args:
        queue: Where its jobs wait. The first word is the service that runs them. A class without a queue is a base
            for contracts and cannot be sent.
        lanes: Names of queues for different urgencies or customers, so that a flood in one does not delay the others.
        default_lane: The lane that is ``queue`` itself, and that a job takes unless its sender names another. It may
            be left out if one of the lanes is ``normal``.
        version: Raise it when old workers must not run the new payload.

    Raises ``TypeError`` at class creation if a name is not usable on the wire, if a field takes a name that jobkit
    needs or cannot be sent (a secret, an excluded field), or if a contract derives from another contract without a
    queue of its own.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    queue: ClassVar[str] = ""
    actor: ClassVar[str] = ""
    lanes: ClassVar[tuple[str, ...]] = (_NORMAL,)
    default_lane: ClassVar[str] = _NORMAL
    version: ClassVar[int] = 1

    def __init_subclass__(
        cls,
        *,
        queue: str | None = None,
        lanes: Sequence[str] | None = None,
        default_lane: str | None = None,
        version: int | None = None,
    ) -> None:
        super().__init_subclass__()
        refuse_taken_names(cls, Job)
        if queue is None:
            _refuse_half_a_contract(cls, lanes=lanes, default_lane=default_lane, version=version)
            return
        if not _QUEUE_NAME.fullmatch(queue) or len(queue) > 100:
            raise TypeError(f"{cls.__name__}: queue={queue!r} must be words of a-z, 0-9 and _, joined by dots")
        if service_of(queue) in TAKEN_SERVICES:
            raise TypeError(
                f"{cls.__name__}: queue={queue!r}: no service may be named {service_of(queue)!r}, whose queues are "
                "jobkit's own"
            )
        cls.queue = queue
        cls.actor = _WORD_BOUNDARY.sub("_", cls.__name__).lower()
        cls.lanes, cls.default_lane = _lanes(cls, lanes, default_lane)
        cls.version = 1 if version is None else version
        if cls.version < 1:
            raise TypeError(f"{cls.__name__}: version={version} must be 1 or more")

    @classmethod
    def __pydantic_init_subclass__(cls, **_arguments: Any) -> None:  # Any: what __init_subclass__ has had
        if cls.__pydantic_complete__:  # a class that names a later one is checked at its first send
            refuse_fields_that_cannot_travel(cls)


def lane_queue(contract: type[Job], lane: str) -> str:
    """Return the queue of a lane; the default lane is the contract's queue itself."""
    return contract.queue if lane == contract.default_lane else f"{contract.queue}.{lane}"


def _refuse_half_a_contract(cls: type[Job], **arguments: object) -> None:
    if cls.queue:
        parent = next(base for base in cls.__mro__[1:] if vars(base).get("queue"))
        raise TypeError(
            f"{cls.__name__} derives from the contract {parent.__name__} and would be sent as one: give it a queue of "
            f"its own, class {cls.__name__}({parent.__name__}, queue={cls.queue!r})"
        )
    for name, value in arguments.items():
        if value is not None:
            raise TypeError(f"{cls.__name__}: {name}={value!r} without a queue has no effect: name the queue, too")


def _lanes(cls: type[Job], lanes: Sequence[str] | None, default: str | None) -> tuple[tuple[str, ...], str]:
    default = _NORMAL if default is None else default
    names = (default,) if lanes is None else tuple(lanes)
    if isinstance(lanes, str) or not names or not all(_LANE_NAME.fullmatch(name) for name in names):
        raise TypeError(f"{cls.__name__}: lanes={lanes!r} must be a tuple of words of a-z, 0-9 and _")
    if len(set(names)) < len(names):
        raise TypeError(f"{cls.__name__}: lanes={lanes!r} names a lane twice")
    if default not in names:
        raise TypeError(
            f"{cls.__name__}: default_lane={default!r} is not among its lanes {', '.join(names)}: "
            "say default_lane=, which is the lane that is the queue itself"
        )
    dead = f"{service_of(cls.queue)}.{_DEAD_LETTERS}"
    if dead in {cls.queue, *(f"{cls.queue}.{name}" for name in names if name != default)}:
        raise TypeError(f"{cls.__name__}: {dead!r} is the service's dead-letter queue: choose another name")
    return names, default
