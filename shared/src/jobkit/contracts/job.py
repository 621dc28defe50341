"""The base of every contract: a payload, the queue that it goes to and the actor that runs it."""

import inspect
import re
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

#: The message option that carries the contract's version; a message without it is version 1.
CONTRACT_VERSION_OPTION = "contract_version"

#: Dots separate a service from its queues and lanes (``inference.training``), so a name may hold them.
_QUEUE_NAME = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*")

#: In ``FetchHTTPPage``: before a capital that follows a small letter, and before the last capital of several.
_WORD_BOUNDARY = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class Job(BaseModel):
    """One kind of job: what a producer sends, and what the actor of the same name receives.

    >>> class BuildReport(Job, queue="reports"):
    ...     account: str
    >>> BuildReport.actor, BuildReport.queue
    ('build_report', 'reports')

    Unknown fields are refused, so that a misspelt one fails at the producer. Raise ``version`` when old workers must
    not run the new payload: they dead-letter it with the reason, and it can be retried once they are updated.

    Raises ``TypeError`` at class creation if the queue's name is not usable on the wire, or a field is called
    ``queue``, ``actor`` or ``version``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    queue: ClassVar[str] = ""
    actor: ClassVar[str] = ""
    version: ClassVar[int] = 1

    def __init_subclass__(cls, *, queue: str | None = None, version: int = 1) -> None:
        super().__init_subclass__()
        taken = sorted({"queue", "actor", "version"} & inspect.get_annotations(cls).keys())
        if taken:
            raise TypeError(f"{cls.__name__}: {taken[0]!r} belongs to the contract itself, name the field differently")
        if queue is not None:
            if not _QUEUE_NAME.fullmatch(queue) or len(queue) > 100:
                raise TypeError(f"{cls.__name__}: queue={queue!r} must be words of a-z, 0-9 and _, joined by dots")
            if version < 1:
                raise TypeError(f"{cls.__name__}: version={version} must be 1 or more")
            cls.queue = queue
            cls.actor = _WORD_BOUNDARY.sub("_", cls.__name__).lower()
            cls.version = version
