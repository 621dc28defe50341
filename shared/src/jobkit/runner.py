"""From a delivered message to a call of the actor's function."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from jobkit.breaker.breaker import CircuitBreaker
from jobkit.broker.envelope import contract_version
from jobkit.children import Children
from jobkit.context import Context
from jobkit.contracts.job import Job
from jobkit.errors import BadPayload, NewerContract
from jobkit.execution import Execution, current
from jobkit.interrupts import Interrupts
from jobkit.middleware.lifespan import Lifespan
from jobkit.retry import RetryPolicy
from jobkit.schedule.cron import Cron
from jobkit.store.base import JobStore

R = TypeVar("R")

#: Bytes. Larger results belong into object storage, with their key as the result.
MAX_RESULT = 262_144

#: Pydantic makes a dictionary of each: half a gigabyte for the most that fit into one message.
_MOST_COMPLAINTS = 1_000

#: Characters. It begins with the name of a field, which anybody may have chosen.
_LONGEST_COMPLAINT = 300

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

    def bind(self, declared: ActorDeclaration[R]) -> Callable[..., None]:
        """What Dramatiq calls. It returns nothing: the result goes into the job's record."""

        def run(*_args: object, **_payload: object) -> None:
            execution = current()
            if execution is None:
                raise RuntimeError("an actor runs in a worker only; call its function in tests")
            job = parse(declared.contract, execution)
            execution.result = encode_result(declared.function(job, self._context(execution)))

        return run

    def _context(self, execution: Execution) -> Context[R]:
        lease, resources = execution.lease, self._lifespan.resources
        if lease is None:
            raise RuntimeError("a job runs only under a lease")
        details = (execution, lease, self._store, self._children, self._interrupts)
        return Context(execution.job.id, lease.attempt, lease.fence, resources, *details)


def parse(contract: type[Job], execution: Execution) -> Job:
    """The job in a message.

    Raises:
        NewerContract: the sender knows a later version of the contract.
        BadPayload: the payload breaks it; the values themselves are not in the text.
    """
    message = execution.message
    version = contract_version(message)
    if not isinstance(version, int) or version > contract.version:
        raise NewerContract(
            f"{message.actor_name} was sent under version {str(version)[:20]} of its contract and this worker knows "
            f"{contract.version}: update the worker, then retry the dead letter"
        )
    if message.args:
        raise BadPayload(f"{message.actor_name} takes its payload in kwargs, and args holds {len(message.args)} values")
    try:
        return contract.model_validate(message.kwargs)
    except ValidationError as error:
        raise BadPayload(f"{message.actor_name}: {_complaints(error)}") from None


def _complaints(error: ValidationError) -> str:
    """What is wrong, at a length that a log and a header can hold, whatever names and however many fields were sent."""
    count = error.error_count()
    if count > _MOST_COMPLAINTS:
        return f"{count:,} things are wrong with the payload, too many to list"
    complaints = error.errors(include_url=False, include_input=False, include_context=False)
    lines = [f"{'.'.join(map(str, one['loc'])) or 'payload'}: {one['msg']}" for one in complaints[:20]]
    return "; ".join(line if len(line) <= _LONGEST_COMPLAINT else f"{line[:_LONGEST_COMPLAINT]}…" for line in lines)


def encode_result(result: object) -> bytes:
    """The result as JSON for the job's record; one that cannot be recorded is logged and left out."""
    if result is None:
        return b""
    try:
        encoded = TypeAdapter(type(result)).dump_json(result)
    except Exception:  # the work is done: a result that is no data must not make it be done again
        log.exception("the result, a %s, is no data and is not recorded", type(result).__name__)
        return b""
    if len(encoded) > MAX_RESULT:
        log.error("the result is %d bytes long, above %d, and is not recorded", len(encoded), MAX_RESULT)
        return b""
    return encoded
