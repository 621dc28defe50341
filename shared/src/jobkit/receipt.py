"""What a sender gets back."""

from dataclasses import dataclass


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
