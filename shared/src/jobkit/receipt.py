"""What a sender gets back."""

from dataclasses import dataclass
from typing import Final

from jobkit.contracts.job import Job
from jobkit.errors import SendError

#: Refused jobs that are kept with their errors. At this number ``send_many`` reads no further jobs.
MOST_REFUSALS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Receipt:
    """The broker has confirmed the job.

    Attributes:
        job_id: Identifies it together with the actor; ask the job store for its status by both.
        actor: What will run it.
        queue: Where it waits.
    """

    job_id: str
    actor: str
    queue: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """A job that was not confirmed.

    Attributes:
        job: What was to be sent.
        job_id: Send it again under this id: if it has arrived all the same, it runs once.
        error: Why it was not confirmed.
    """

    job: Job
    job_id: str
    error: Exception


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of many jobs.

    Attributes:
        accepted: How many the broker has confirmed.
        taken: How many were read from what was given: the first ones. What was not read was not sent.
        refused: The first 1,000 that were not confirmed.
    """

    accepted: int
    taken: int
    refused: tuple[Refusal, ...] = ()

    @property
    def not_accepted(self) -> int:
        """How many of the jobs that were read were not confirmed."""
        return self.taken - self.accepted


class NotAllSent(SendError):
    """Some of many jobs were not confirmed.

    Attributes:
        sent: All counts.
        accepted: How many the broker has confirmed.
        taken: How many were read from what was given.
        refused: The first 1,000 that were not confirmed, each with its error and the id to send it again under.
    """

    def __init__(self, sent: Sent, *, to_the_end: bool) -> None:
        first = sent.refused[0].error
        rest = "" if to_the_end else "; further jobs were not read"
        super().__init__(
            f"{sent.not_accepted:,} of {sent.taken:,} jobs were not confirmed, {sent.accepted:,} were{rest}. "
            f"The first error: {first}. Send those in .refused again, each under its job_id"
        )
        self.sent = sent
        self.accepted = sent.accepted
        self.taken = sent.taken
        self.refused = sent.refused
