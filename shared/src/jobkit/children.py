"""The jobs that jobs send."""

import json
import uuid
from datetime import timedelta
from typing import Any, Final

from dramatiq import Message

from jobkit.contracts.job import Job, service_of
from jobkit.contracts.key import checked_key
from jobkit.errors import LeaseLost
from jobkit.execution import MOMENT_OPTION, Execution, in_round
from jobkit.interrupts import Interrupts
from jobkit.patience import Patience
from jobkit.producer import SendsMessages, message_for
from jobkit.receipt import Receipt
from jobkit.store.base import JobKey, JobStore

#: Ids that are derived from the parent's come from this namespace.
_CHILDREN: Final = uuid.UUID("0e9f4d0a-7b0b-5d62-9a4e-6f1d7f6c2a11")

#: Begins the names under which a job's record remembers what is jobkit's. Jobs choose no such name themselves.
RESERVED: Final = "jobkit."
_FIRST_SENT: Final = RESERVED + "sent/{send}/{child}"


class Children:
    """Sends them so that a run which repeats another sends the same ones, and they do not run twice.

    Args:
        sender: Where they go.
        patience: Waits out outages.
        interrupts: Ends the wait of a job that is interrupted.
        store: Keeps the parents' records.
    """

    def __init__(self, sender: SendsMessages, patience: Patience, interrupts: Interrupts, store: JobStore) -> None:
        self._sender = sender
        self._patience = patience
        self._interrupts = interrupts
        self._store = store

    def send(
        self,
        parent: Execution,
        job: Job,
        *,
        lane: str | None,
        key: str | None,
        delay: timedelta,
        child_key: str | None = None,
    ) -> Receipt:
        """Return once the broker has confirmed the job. While it is away, the parent waits with what it has done.

        Raises:
            SendError: the broker can never take it.
            ValueError: both keys are given, one is blank, the lane is not the contract's, or the delay is too long.
            LeaseLost: another worker has the parent by now.
            WorkerStopping: the worker stops, and the time that running jobs have is over.
        """
        if key is not None and child_key is not None:
            raise ValueError("give key or child_key, not both: each of them is turned into the job's id")
        if key is None:
            name = parent.sends + 1 if child_key is None else checked_key(child_key, "child_key")
            message = message_for(job, lane=lane, job_id=child_id(parent.job, job, name))
        else:
            message = message_for(job, lane=lane, key=key)
        parent.sends += 1

        def send() -> None:
            if key is None:
                message.options[MOMENT_OPTION] = parent.moment
                self._sender.send([in_round(message, parent.round)], delay=delay)
            else:
                message.options[MOMENT_OPTION] = self._first_sent(parent, message)
                self._sender.send([message], delay=delay)

        self._interrupts.shielded(lambda: self._patience.see_through(send, unless=self._interrupts.pending))
        return Receipt(message.message_id, message.actor_name, message.queue_name)

    def _first_sent(self, parent: Execution, message: Message[Any]) -> int:
        """Return when the parent first sent this job by its key, in milliseconds since the epoch.

        As with a producer's key, a send starts a job again that died before it. What a run repeats of another is no
        new send. What a parent sends that was itself sent again, by its sender or from the dead-letter queue, is one.
        """
        if parent.lease is None:
            raise RuntimeError("a job sends others only under a lease")
        send = f"{parent.moment}:{parent.round}" if parent.round else parent.moment
        name = _FIRST_SENT.format(send=send, child=message.message_id)
        stored = self._store.remember(parent.lease, name, str(message.message_timestamp).encode())
        if stored is None:
            raise LeaseLost("another worker holds the job's lease by now")
        return int(stored)


def child_id(parent: JobKey, job: Job, name: str | int) -> str:
    """Return the id of the job that a job sends: by its ``child_key``, or as its first, second … send."""
    # As JSON, so that no two of these have one text, whatever stands in ids and keys.
    told = json.dumps([parent.service, parent.actor, parent.id, service_of(job.queue), job.actor, name])
    return str(uuid.uuid5(_CHILDREN, told))
