"""From a delivered message to a call of the actor's function."""

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, Literal, TypeVar

from dramatiq.middleware import Interrupt
from pydantic import TypeAdapter

from jobkit.actor_function import refuse_undone
from jobkit.breaker.breaker import CircuitBreaker
from jobkit.children import Children
from jobkit.context import Context
from jobkit.contracts.job import Job
from jobkit.contracts.tick import during
from jobkit.defaults import Defaults
from jobkit.errors import MAX_RESULT, ResultNotKept, text_of
from jobkit.execution import Execution, current
from jobkit.interrupts import Interrupts
from jobkit.middleware.lifespan import Lifespan
from jobkit.middleware.subprocesses import in_one_process
from jobkit.middleware.time_limit import limited
from jobkit.observers import Observer
from jobkit.payload import parse
from jobkit.retry import RetryPolicy
from jobkit.schedule.cron import Cron
from jobkit.store.base import JobStore

R = TypeVar("R")

LargeResult = Literal["fail", "drop"]

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
    large_result: LargeResult = "fail"
    observers: Sequence[Observer] = ()
    dead_letter: bool = True


class Runner(Generic[R]):
    """Calls actors' functions with their job and its context, under the lease that the middleware holds."""

    def __init__(
        self,
        store: JobStore,
        children: Children,
        lifespan: Lifespan[R],
        interrupts: Interrupts,
        stopping: threading.Event,
        started: Callable[[Execution], None] | None = None,
    ) -> None:
        self._store = store
        self._children = children
        self._lifespan = lifespan
        self._interrupts = interrupts
        self._stopping = stopping
        self._started = started
        self._defaults = Defaults(store, interrupts)

    def bind(self, declared: ActorDeclaration[R]) -> Callable[..., None]:
        """What Dramatiq calls. It returns nothing: the result goes into the job's record."""

        def run(execution: Execution) -> None:
            context = self._context(execution)
            tick = context.tick
            with during(tick) if tick is not None else nullcontext():
                job = execution.payload = self._defaults.settle(parse(declared.contract, execution), execution)
                if (started := self._started) is not None:
                    self._interrupts.shielded(lambda: started(execution))
                result = declared.function(job, context)
            refuse_undone(declared.contract.actor, result)
            execution.result = encode_result(result, drop_large=declared.large_result == "drop")

        # A forked child ends inside the time limit's window: it must not use its parent's locks.
        alone = in_one_process(run, declared.contract.actor)
        job_run = limited(alone, self._interrupts, declared.time_limit)

        def call(*_args: object, **_payload: object) -> None:
            execution = current()
            if execution is None:
                raise RuntimeError("an actor runs in a worker only; call its function in tests")
            execution.context.run(job_run, execution)

        return call

    def _context(self, execution: Execution) -> Context[R]:
        lease, resources = execution.lease, self._lifespan.resources
        if lease is None:
            raise RuntimeError("a job runs only under a lease")
        details = (execution, lease, self._store, self._children, self._interrupts, self._stopping)
        return Context(execution.job.id, lease.attempt, lease.fence, resources, execution.sent_at, *details)


def encode_result(result: object, *, drop_large: bool = False) -> bytes:
    """Return the result as JSON for the job's record.

    Args:
        result: What the actor returned.
        drop_large: Leave out, with a line in the log, what is above ``MAX_RESULT``.

    Raises:
        ResultNotKept: It is no data, or is above ``MAX_RESULT``. Another run would return the same.
    """
    if result is None:
        return b""
    kind = type(result).__name__
    try:
        encoded = TypeAdapter(type(result)).dump_json(result)
    except Interrupt:
        raise
    except BaseException as error:  # serializers are somebody's code, and may raise anything
        raise ResultNotKept(f"the result ({kind}) is no data: {text_of(error)}") from error
    if len(encoded) <= MAX_RESULT:
        return encoded
    if not drop_large:
        raise ResultNotKept(
            f"the result has {len(encoded):,} bytes, and a job's record keeps {MAX_RESULT:,}: split the job, "
            "or put the result into object storage and return its key"
        )
    log.warning("the result has %d bytes, above %d, and is not recorded", len(encoded), MAX_RESULT)
    return b""
