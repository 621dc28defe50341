"""A dry run of everything that jobs do with their records, which shows whether the store permits it."""

import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from jobkit.store.base import GENERATION, JobKey, JobStore, Lease, Process

#: The actor of the records that are made for it. No real actor has a name with a dot.
ACTOR: Final = "jobkit.access"

#: For how long a store that it is tried on should keep records.
RECORD_TTL: Final = timedelta(seconds=10)

_LEASE: Final = timedelta(seconds=5)


def exercise(store: JobStore, service: str) -> None:
    """Take jobs through all transitions; their records expire soon after.

    Several, because a Redis Cluster refuses a call for more than one record, and a job has three ends.

    Args:
        store: Keeps records for ``RECORD_TTL``.
        service: Whose records, since a permission may depend on the key.

    Raises:
        StoreRefused: A command or a key is not permitted.
        StoreUnavailable: The store does not answer now.
    """
    of_its_own = f"{service}:{ACTOR}"  # so that it is no worker of the service
    process = Process(uuid.uuid4().hex, of_its_own, "", 0, (), GENERATION, 0)
    owner = f"{process.name}:1"
    # Marks of so short a life would be in the way of the service's own.
    jobs = [JobKey(whose, ACTOR, f"{process.name}-{n}") for n, whose in enumerate((service, of_its_own, service))]
    breaker = f"{service}/{ACTOR}"  # which nobody opens
    answers = [store.acquire(job, owner, ttl=_LEASE, sent_at=1, breaker=breaker) for job in jobs]
    leases = [answer for answer in answers if isinstance(answer, Lease)]
    store.renew(leases, _LEASE, process)
    store.processes(of_its_own)
    store.declare_dead(process.name, of_its_own, ())
    for lease in leases[:1]:
        store.remember(lease, ACTOR, b"{}")
        store.forget(lease, ACTOR)
        store.checkpoint(lease)
    ends: list[Callable[[Lease], object]] = [
        lambda lease: store.release(lease, delay=timedelta(), counted=False),
        lambda lease: store.complete(lease, b"null"),
        lambda lease: store.bury(lease, failure="none"),
    ]
    for lease, end in zip(leases, ends, strict=True):
        store.report(lease, percent=0.0, step="", note="")
        store.record(lease.job)
        end(lease)
