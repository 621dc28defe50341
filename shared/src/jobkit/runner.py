"""From a delivered message to a call of the actor's function."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, TypeVar

from dramatiq.middleware import Interrupt
from pydantic import TypeAdapter

from jobkit.actor_function import refuse_undone
from jobkit.breaker.breaker import CircuitBreaker
from jobkit.children import Children
from jobkit.context import Context
from jobkit.contracts.job import Job
from jobkit.contracts.tick import during
from jobkit.defaults import Defaults
from jobkit.execution import Execution, current
from jobkit.interrupts import Interrupts
from jobkit.middleware.lifespan import Lifespan
from jobkit.payload import parse
from jobkit.retry import RetryPolicy
from jobkit.schedule.cron import Cron
from jobkit.store.base import JobStore

R = TypeVar("R")

#: Bytes. Larger results belong into object storage, with their key as the result.
MAX_RESULT = 262_144

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ActorDeclaration(Generic[R]):
    """What the decorator notes of an actor; nothing is built before a worker starts."""

    contract: type[Job]
    function: Callable[[Any, Context[R]], object]  # Any: each actor takes its own kind of job
    retry: RetryPolicy
    time_limit: timedelta
    periodic: Cron | None
    breaker: CircuitBreaker | None = None


class Runner(Generic[R]):
    """Calls actors' functions with their job and its context, under the lease that the middleware holds."""

    def __init__(self, store: JobStore, children: Children, lifespan: Lifespan[R], interrupts: Interrupts) -> None:
        self._store = store
        self._children = children
        self._lifespan = lifespan
        self._interrupts = interrupts
        self._defaults = Defaults(store, interrupts)

    def bind(self, declared: ActorDeclaration[R]) -> Callable[..., None]:
        """What Dramatiq calls. It returns nothing: the result goes into the job's record."""

        def run(*_args: object, **_payload: object) -> None:
            execution = current()
            if execution is None:
                raise RuntimeError("an actor runs in a worker only; call its function in tests")
            context = self._context(execution)
            with during(context.tick):
                job = self._defaults.settle(parse(declared.contract, execution), execution)
                result = declared.function(job, context)
            refuse_undone(declared.contract.actor, result)
            execution.result = encode_result(result)

        return run

    def _context(self, execution: Execution) -> Context[R]:
        lease, resources = execution.lease, self._lifespan.resources
        if lease is None:
            raise RuntimeError("a job runs only under a lease")
        details = (execution, lease, self._store, self._children, self._interrupts)
        return Context(execution.job.id, lease.attempt, lease.fence, resources, *details)


def encode_result(result: object) -> bytes:
    """The result as JSON for the job's record; one that cannot be recorded is logged and left out."""
    if result is None:
        return b""
    try:
        encoded = TypeAdapter(type(result)).dump_json(result)
    except Interrupt:
        raise
    except BaseException:  # the work is done: a result that is no data must not make it be done again
        log.exception("the result, a %s, is no data and is not recorded", type(result).__name__)
        return b""
    if len(encoded) > MAX_RESULT:
        log.error("the result is %d bytes long, above %d, and is not recorded", len(encoded), MAX_RESULT)
        return b""
    return encoded
