"""The defaults of a periodic job, which are made once for each tick."""

import json
from dataclasses import replace
from typing import TypeVar

from jobkit.contracts.job import Job
from jobkit.contracts.payload import PayloadChanged, payload_of
from jobkit.contracts.tick import Tick
from jobkit.errors import BadPayload, LeaseLost
from jobkit.execution import Execution
from jobkit.interrupts import Interrupts
from jobkit.payload import read
from jobkit.store.base import JobStore

J = TypeVar("J", bound=Job)

#: Of what the job's record remembers.
_NAME = ""


class Defaults:
    """Keeps what a periodic job's defaults were at its first run, for all runs of the same tick.

    A default factory may give another value at each call: the day, a random id. Its value is stored in the job's record
    before the function is called, so a redelivery after a crash gets the same. Copies of the message carry it, too.

    Args:
        store: Keeps the job records.
        interrupts: Holds back an interrupt while the store is asked.
    """

    def __init__(self, store: JobStore, interrupts: Interrupts) -> None:
        self._store = store
        self._interrupts = interrupts

    def settle(self, job: J, execution: Execution) -> J:
        """Return the job with the defaults of its tick.

        Raises:
            LeaseLost: Another worker has the job by now.
            StoreUnavailable: They cannot be stored, so the job must not run.
            BadPayload: A default does not survive JSON.
        """
        message, lease = execution.message, execution.lease
        if lease is None or Tick.of(message.options) is None or not _may_vary(job):
            return job
        try:
            made = payload_of(job)
        except PayloadChanged as error:
            raise BadPayload(str(error)) from error
        if made.keys() <= message.kwargs.keys():  # a copy, or an announcement of an older version
            return job
        stored = self._interrupts.shielded(lambda: self._store.remember(lease, _NAME, json.dumps(made).encode()))
        if stored is None:
            raise LeaseLost("another worker holds the job's lease by now")
        execution.message = replace(message, kwargs={**json.loads(stored), **message.kwargs})
        return read(type(job), execution.message.kwargs)


def refuse_what_cannot_be_periodic(contract: type[Job]) -> None:
    """Raise ``ValueError`` for a contract with a field that has no default, or whose defaults would arrive changed."""
    job = contract()
    if _may_vary(job):
        payload_of(job)


def _may_vary(job: Job) -> bool:
    """Whether another call of the contract may give another job: it has a factory, or a validator has set a field."""
    fields = type(job).model_fields
    return any(
        field.default_factory is not None or getattr(job, name) != field.default for name, field in fields.items()
    )
