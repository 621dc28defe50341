"""The base of every contract: a payload, the queue that it goes to and the actor that runs it."""

import inspect
import re
from collections.abc import Sequence
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

#: The message option that carries the contract's version; a message without it is version 1.
CONTRACT_VERSION_OPTION = "contract_version"

#: Dots separate a service from its queues and lanes (``inference.training``), so a name may hold them.
_QUEUE_NAME = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*")

#: In ``FetchHTTPPage``: before a capital that follows a small letter, and before the last capital of several.
_WORD_BOUNDARY = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")

_LANE_NAME = re.compile(r"[a-z][a-z0-9_]{0,30}")


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
        queue: Where its jobs wait. The first word is the service that runs them.
        lanes: Queues of their own beside it for kinds of urgency or customer, so that a flood in one does not hold up
            the others. ``normal`` is the queue itself.
        version: Raise it when old workers must not run the new payload: they dead-letter it with the reason, and it can
            be retried once they are updated.

    Raises ``TypeError`` at class creation if a name is not usable on the wire.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    queue: ClassVar[str] = ""
    actor: ClassVar[str] = ""
    lanes: ClassVar[tuple[str, ...]] = ("normal",)
    version: ClassVar[int] = 1

    def __init_subclass__(
        cls, *, queue: str | None = None, lanes: Sequence[str] = ("normal",), version: int = 1
    ) -> None:
        super().__init_subclass__()
        taken = sorted({"queue", "actor", "version"} & inspect.get_annotations(cls).keys())
        if taken:
            raise TypeError(f"{cls.__name__}: {taken[0]!r} belongs to the contract itself, name the field differently")
        if queue is not None:
            if not _QUEUE_NAME.fullmatch(queue) or len(queue) > 100:
                raise TypeError(f"{cls.__name__}: queue={queue!r} must be words of a-z, 0-9 and _, joined by dots")
            if "normal" not in lanes or not all(_LANE_NAME.fullmatch(lane) for lane in lanes):
                raise TypeError(f"{cls.__name__}: lanes={lanes!r} must be words of a-z, 0-9 and _, 'normal' among them")
            if version < 1:
                raise TypeError(f"{cls.__name__}: version={version} must be 1 or more")
            cls.queue = queue
            cls.actor = _WORD_BOUNDARY.sub("_", cls.__name__).lower()
            cls.lanes = tuple(lanes)
            cls.version = version
