"""The jobs that jobs send."""

import json
import uuid
from datetime import timedelta

from jobkit.contracts.job import Job, service_of
from jobkit.contracts.key import checked_key
from jobkit.execution import ROUND_OPTION, Execution
from jobkit.interrupts import Interrupts
from jobkit.patience import Patience
from jobkit.producer import SendsMessages, message_for
from jobkit.receipt import Receipt
from jobkit.store.base import JobKey

#: Their ids come from this namespace, from their parent's id and their number or key.
_CHILDREN = uuid.UUID("0e9f4d0a-7b0b-5d62-9a4e-6f1d7f6c2a11")


class Children:
    """Sends them so that a run which repeats another sends the same ones, and they do not run twice."""

    def __init__(self, sender: SendsMessages, patience: Patience, interrupts: Interrupts) -> None:
        self._sender = sender
        self._patience = patience
        self._interrupts = interrupts

    def send(self, parent: Execution, job: Job, *, lane: str | None, key: str | None, delay: timedelta) -> Receipt:
        """Return once the broker has confirmed the job. While it is away, the parent waits with what it has done.

        Raises:
            SendError: the broker can never take it.
            ValueError: the key is blank, the lane is not the contract's, or the delay is too long.
            WorkerStopping: the worker stops, and the time that running jobs have is over.
        """
        if key is not None:
            checked_key(key)
        parent.sends += 1
        child = child_id(parent.job, job, key if key is not None else parent.sends)
        message = message_for(job, lane=lane, key=None, job_id=child)
        message.options[ROUND_OPTION] = parent.round
        self._interrupts.shielded(
            lambda: self._patience.see_through(
                lambda: self._sender.send([message], delay=delay), unless=self._interrupts.pending
            )
        )
        return Receipt(message.message_id, message.actor_name, message.queue_name)


def child_id(parent: JobKey, job: Job, name: str | int) -> str:
    """The id of the job that a job sends: by its key, or as its first, second … send."""
    # As JSON, so that no two of these have one text, whatever stands in ids and keys.
    told = json.dumps([parent.service, parent.actor, parent.id, service_of(job.queue), job.actor, name])
    return str(uuid.uuid5(_CHILDREN, told))
