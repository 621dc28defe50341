"""From a message's payload to the job that its contract describes."""

import copy
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from jobkit import telemetry
from jobkit.broker.envelope import contract_version
from jobkit.contracts.job import Job
from jobkit.errors import BadPayload, NewerContract
from jobkit.execution import Execution

J = TypeVar("J", bound=Job)

#: Pydantic makes a dictionary of each complaint: half a gigabyte for the most that fit into one message.
_MOST_COMPLAINTS: Final = 1_000

#: Characters of one complaint. It begins with the name of a field, which the sender has chosen.
_LONGEST_COMPLAINT: Final = 300

#: Pydantic's name for a field that a contract does not have.
_UNKNOWN_FIELD: Final = "extra_forbidden"

#: Fields that were ignored before, by contract: each is logged once in a process. The sender chooses the names.
_ignored: set[tuple[str, str]] = set()
_MOST_IGNORED: Final = 1_000

#: Contracts whose newer messages were seen: each is logged once in a process.
_too_old: set[str] = set()

log = logging.getLogger(__name__)


def parse(contract: type[J], execution: Execution) -> J:
    """Return the job in the message of a delivery.

    Fields that the contract does not have are ignored: the sender's contract has gained them since. They stay in the
    message and in every copy of it.

    Raises:
        NewerContract: the message has a later version of the contract.
        BadPayload: the payload breaks the contract. The text does not show the values.
    """
    message = execution.message
    version = contract_version(message)
    if not isinstance(version, int) or version > contract.version:
        text = (
            f"{message.actor_name} was sent under version {str(version)[:20]} of its contract and this worker has "
            f"{contract.version}: update the worker"
        )
        if contract.actor not in _too_old:
            _too_old.add(contract.actor)
            log.warning("%s; such jobs wait for a newer worker", text)
        raise NewerContract(text)
    if message.args:
        raise BadPayload(f"{message.actor_name} takes its payload in kwargs, and args holds {len(message.args)} values")
    try:
        return read(contract, message.kwargs)
    except ValidationError as error:
        raise BadPayload(f"{message.actor_name}: {_complaints(error)}") from None


def read(contract: type[J], payload: Mapping[str, Any]) -> J:
    """Return the job in a payload, as a worker reads it: unknown fields are ignored, at any depth.

    Raises:
        ValidationError: the payload breaks the contract.
    """
    try:
        return contract.model_validate(payload)
    except ValidationError as error:
        if error.error_count() > _MOST_COMPLAINTS:
            raise
        unknown = [e for e in error.errors(include_url=False, include_context=False) if e["type"] == _UNKNOWN_FIELD]
        if not unknown:
            raise
    job = _read_without(contract, payload, unknown)
    for one in unknown:
        _count_ignored(contract, one["loc"])
    return job


def _read_without(contract: type[J], payload: Mapping[str, Any], unknown: Sequence[ErrorDetails]) -> J:
    known = copy.deepcopy(dict(payload))
    try:
        for one in unknown:
            *way, name = one["loc"]
            place: Any = known
            for step in way:
                place = place[step]
            del place[name]
    except (LookupError, TypeError):
        # Inside a union, the way names the alternatives too. Then every unknown field is left out.
        return contract.model_validate(payload, extra="ignore")
    return contract.model_validate(known)


def _count_ignored(contract: type[Job], way: Sequence[int | str]) -> None:
    field = ".".join(step for step in way if isinstance(step, str))[:_LONGEST_COMPLAINT]
    telemetry.field_ignored(contract.actor)
    if (contract.actor, field) not in _ignored and len(_ignored) < _MOST_IGNORED:
        _ignored.add((contract.actor, field))
        log.warning("%s: the contract has no field %r, so it is ignored. Update this worker", contract.actor, field)


def _complaints(error: ValidationError) -> str:
    """Return what is wrong, cut to what a log and a header can hold."""
    count = error.error_count()
    if count > _MOST_COMPLAINTS:
        return f"{count:,} things are wrong with the payload, too many to list"
    complaints = error.errors(include_url=False, include_input=False, include_context=False)
    lines = [f"{'.'.join(map(str, one['loc'])) or 'payload'}: {one['msg']}" for one in complaints[:20]]
    return "; ".join(line if len(line) <= _LONGEST_COMPLAINT else f"{line[:_LONGEST_COMPLAINT]}…" for line in lines)
