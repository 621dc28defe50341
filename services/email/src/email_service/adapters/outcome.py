"""What the job's record says of the final dot, so that no run sends an e-mail again that an earlier run has delivered.

Before the dot a mark says that it is being sent, and for whom. After a positive answer a second one says that the
server has the e-mail. A run that finds the first mark alone cannot know: the worker died, or the answer was lost.
"""

import logging
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Final, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict

from email_service.adapters.mailer import Reply
from jobkit.contracts.email import Refusal
from jobkit.errors import Snooze, StoreUnavailable

T = TypeVar("T")

log = logging.getLogger(__name__)

#: Times that an e-mail is handed over whose outcome may stay unknown.
_TRIES: Final = (1, 2)

#: Added to the wait for the answer: for the dot itself and the marks around it.
DOT_MARGIN: Final = timedelta(seconds=20)

_NOT_YET: Final = "not yet"
_UNKNOWN: Final = "unknown"
_TAKEN: Final = "taken"


class Marks(Protocol):
    """The part of a job's ``Context`` that is needed here."""

    def remember(self, name: str, value: str) -> str:
        """Store ``value`` under ``name`` in the job's record, unless there is one; return what is stored."""
        ...

    def forget(self, name: str) -> None:
        """Remove what is stored."""
        ...

    def shielded(self, call: Callable[[], T], *, at_most: timedelta) -> T:
        """Return what ``call`` returns, and let no interrupt cut it in half."""
        ...


class Outcome(BaseModel):
    """Who was sent to when the final dot was.

    Attributes:
        at: When, in seconds since the epoch.
        accepted: Recipients whom the server had accepted before.
        refusals: The others.
        known: Whether the server has taken the e-mail for ``accepted``; else it may have.
    """

    model_config = ConfigDict(frozen=True)

    at: float
    accepted: tuple[str, ...]
    refusals: tuple[Refusal, ...] = ()
    known: bool = True


class FinalDot:
    """The final dot of one job's e-mail; an ``AtDot``.

    Args:
        marks: The job's record.
        wait: How long the answer to the dot may take.
        again_after: How long an unknown outcome rests until the e-mail is sent once more.
    """

    def __init__(self, marks: Marks, *, wait: timedelta, again_after: timedelta) -> None:
        self._marks = marks
        self._wait = wait
        self._again_after = again_after
        self._number = _TRIES[0]
        self._sent: Outcome | None = None

    def earlier(self) -> Outcome | None:
        """Return how it ended if an earlier run has sent the dot; None if this run may send it.

        Raises:
            Snooze: an earlier run has sent it, and it is too early to send it once more.
        """
        for self._number in _TRIES:
            mark = self._marks.remember(f"dot/{self._number}", _NOT_YET)
            if mark == _NOT_YET:
                return None
            sent = Outcome.model_validate_json(mark)
            if self._marks.remember(f"answer/{self._number}", _UNKNOWN) == _TAKEN:
                return sent
            if (ended := self._unknown(sent)) is not None:
                return ended
        return None

    def after_silence(self) -> Outcome:
        """Return how it ends when the answer to this run's dot did not come.

        Raises:
            Snooze: the e-mail is sent once more later.
        """
        assert self._sent is not None  # noqa: S101  the mailer has called this
        ended = self._unknown(self._sent)
        if ended is None:  # no rest at all was asked for
            raise Snooze(1, "the mail server did not say whether it has the e-mail")
        return ended

    def __call__(self, finish: Callable[[], Reply], accepted: Sequence[str], refusals: Sequence[Refusal]) -> Reply:
        """See ``AtDot``."""
        self._sent = Outcome(at=time.time(), accepted=tuple(accepted), refusals=tuple(refusals))
        mark = self._sent.model_dump_json()
        return self._marks.shielded(lambda: self._finish(finish, mark), at_most=self._wait + DOT_MARGIN)

    def _finish(self, finish: Callable[[], Reply], mark: str) -> Reply:
        dot, answer = f"dot/{self._number}", f"answer/{self._number}"
        self._marks.forget(dot)
        self._marks.remember(dot, mark)
        code, words = finish()
        try:
            if 200 <= code < 300:
                self._marks.remember(answer, _TAKEN)
            else:
                self._marks.forget(dot)
        except StoreUnavailable as outage:  # a later run will not know; this one does
            log.warning("the answer to the final dot is not recorded: %s", outage)
        return code, words

    def _unknown(self, sent: Outcome) -> Outcome | None:
        """Return the end if the outcome is unknown for good, None if the e-mail may be sent once more by now."""
        if self._number == _TRIES[-1]:
            return sent.model_copy(update={"known": False})
        rest = sent.at + self._again_after.total_seconds() - time.time()
        if rest > 0:
            raise Snooze(rest, "the mail server did not say whether it has the e-mail; it is sent once more later")
        return None
