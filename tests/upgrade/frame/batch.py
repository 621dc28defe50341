"""A batch of jobs of every kind, sent by clients of one or of both versions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from books import Books
from client import Client
from upgrade_jobs import PostTask, ShopTask


@dataclass(frozen=True)
class Kind:
    """How a job is sent, and what it does.

    Attributes:
        fields: Fields of the task beside its name.
        lane: The lane that it is sent to.
        delay: Seconds that the broker holds it.
        dies: Whether it must become a dead letter.
    """

    fields: Mapping[str, object] = field(default_factory=dict)
    lane: str = "normal"
    delay: float = 0.0
    dies: bool = False


#: All that can be on its way while workers are replaced.
KINDS = {
    "plain": Kind(),
    "urgent": Kind(lane="high"),
    "failing": Kind({"first": "fail"}),
    "snoozing": Kind({"first": "snooze"}),
    "delayed": Kind(delay=2),
    "parent": Kind({"children": 2}),
    "long": Kind({"seconds": 2.5}),
    "doomed": Kind({"first": "give up", "always": True}, dies=True),
}


def send_batch(books: Books, label: str, clients: Sequence[Client], size: int) -> None:
    """Send ``size`` jobs of each kind to both services. Each client sends each job, under the same key."""
    for number in range(size):
        for title, kind in KINDS.items():
            for contract in (ShopTask, PostTask):
                name = f"{label}-{title}-{contract.__name__}-{number}"
                send(books, contract.model_validate({"name": name, **kind.fields}), kind, clients)


def send(books: Books, job: ShopTask | PostTask, kind: Kind, clients: Sequence[Client]) -> str:
    """Send one job by each of the clients, enter it in the books, and return its id.

    A job that dies is sent once: a send after its death is a new one, and runs again.
    """
    senders = clients[:1] if kind.dies else clients
    ids = {client.send(job, lane=kind.lane, key=job.name, delay=kind.delay) for client in senders}
    assert len(ids) == 1, f"one key gave two ids: {ids}"
    (job_id,) = ids
    if kind.dies:
        books.dead[job_id] = job.name
    else:
        books.once.update([job.name, *(f"{job.name}/{child}" for child in range(job.children))])
    return job_id
