"""What a dead letter says of itself: the original message, unchanged, with the story of its failure in the headers.

The body stays the message that was sent, so any tool that moves it back to its queue sends the same job again. The
headers are flat and readable in RabbitMQ's own management page.
"""

import hashlib
import json
import re
import socket
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Self

from jobkit.errors import text_of, traceback_of
from jobkit.rounds import END_OF_ROUNDS, ROUND_OPTION, is_round, said_round

#: Prefix of the headers. A message that bears them has been dead before.
HEADER = "failure-"

#: The round that a dead letter died in.
_ROUND_HEADER = HEADER + "round"

#: What begins the names of the queues that hold delayed messages.
DELAY_QUEUES = "jobkit.delay."

#: What begins the names of the queues that delayed messages come to when they are due.
DUE_QUEUES = "due."

#: The routing key of a delayed message: the digits of its delay and its target.
_DELAYED_KEY = re.compile(rf"(?:[01]\.)+(?:{re.escape(DUE_QUEUES)})?(.+)")

#: The fields of a record that are no text.
_NUMBERS = frozenset({"attempts", "sent_at", "first_failed_at", "died_at", "round"})

#: RabbitMQ's own reasons for dead-lettering a message.
_BROKER_REASONS = frozenset({"delivery_limit", "rejected", "maxlen", "expired"})


class Reason(StrEnum):
    """Why a message is dead."""

    PERMANENT = "permanent"  #: the job said that it can never succeed
    EXHAUSTED = "attempts_exhausted"  #: every attempt failed
    NOT_RETRIED = "not_retried"  #: the retry policy does not retry this failure
    POISON = "poison"  #: its workers died while it ran
    UNDECODABLE = "undecodable"  #: the body is not a Dramatiq message
    TOO_LARGE = "too_large"  #: the body is above the size limit
    UNKNOWN_ACTOR = "unknown_actor"  #: nobody here runs that actor
    BAD_PAYLOAD = "bad_payload"  #: the payload breaks its contract
    NEWER_CONTRACT = "newer_contract"  #: sent under a newer version of the contract, and no newer worker came
    DELIVERY_LIMIT = "delivery_limit"  #: delivered too often without coming to an end
    UNROUTABLE = "unroutable"  #: its delay is over, and no queue takes it


@dataclass(frozen=True, slots=True)
class Failure:
    """The record of a dead letter.

    Attributes:
        reason: The kind of death.
        type: The exception's class.
        message: The exception's text.
        traceback: The end of its traceback.
        fingerprint: Equal for failures that are alike: same actor, same class, same place in the code.
        attempts: Runs that were made.
        queue: The queue that it came from.
        host: The machine that gave up.
        trace_id: The trace of its last run, 32 hex digits, or empty.
        sent_at: When it was sent; all times are milliseconds since the epoch, 0 when unknown.
        first_failed_at: When its first attempt failed.
        died_at: When it became a dead letter.
        round: How often it was sent again before (``jobkit.rounds``).
    """

    reason: str
    type: str
    message: str
    traceback: str
    fingerprint: str
    attempts: int
    queue: str
    host: str
    trace_id: str
    sent_at: int
    first_failed_at: int
    died_at: int
    round: int

    @classmethod
    def of(
        cls,
        error: BaseException,
        reason: Reason,
        *,
        actor: str,
        queue: str,
        died_at: int,
        attempts: int = 0,
        sent_at: int = 0,
        first_failed_at: int = 0,
        trace_id: str = "",
        job_round: int = 0,
        group: BaseException | None = None,
    ) -> Self:
        """The record of a message that died of ``error``, which was part of ``group``."""
        name = type(error).__name__
        return cls(
            reason=reason,
            type=name,
            message=text_of(error),
            # Both texts are cut: a header frame must stay below 128 KiB whatever an exception carries.
            traceback=traceback_of(group or error),
            fingerprint=_fingerprint(actor, name, error),
            attempts=attempts,
            queue=queue,
            host=socket.gethostname(),
            trace_id=trace_id,
            sent_at=sent_at,
            first_failed_at=first_failed_at or died_at,
            died_at=died_at,
            round=job_round,
        )

    def headers(self) -> dict[str, object]:
        """The AMQP headers that carry this record."""
        return {HEADER + name.replace("_", "-"): value for name, value in asdict(self).items()}

    @classmethod
    def from_headers(cls, headers: Mapping[str, object] | None, queue: str = "") -> Self:
        """The record in a dead letter's headers; what RabbitMQ itself dead-lettered has only its ``x-death``."""
        headers = headers or {}
        if HEADER + "reason" not in headers:
            return cls._by_broker(headers, queue)
        values = {f.name: headers.get(HEADER + f.name.replace("_", "-")) for f in fields(cls)}
        known = {name: _number(v) if name in _NUMBERS else _text(v) for name, v in values.items()}
        return cls(**known)  # type: ignore[arg-type]  # each field by its name

    @classmethod
    def _by_broker(cls, headers: Mapping[str, object], queue: str) -> Self:
        death = _broker_death(headers)
        if death is None and (target := _delayed_to(headers)):
            explanation = f"its delay is over, and no queue takes messages for {target}: the queue was deleted"
            reason = Reason.UNROUTABLE
            return cls(reason, "", explanation, "", f"broker:{reason}", 0, target, "", "", 0, 0, 0, 0)
        death = death or {}
        why, origin = str(death.get("reason", "unknown")), str(death.get("queue", queue))
        explanation = f"RabbitMQ dead-lettered it by itself ({why}), so no worker has left a record"
        return cls(why, "", explanation, "", f"broker:{why}", 0, origin, "", "", 0, 0, 0, _died_in(headers) or 0)


def has_been_dead(headers: Mapping[str, object] | None) -> bool:
    """Whether a message has come back from a dead-letter queue."""
    return headers is not None and (HEADER + "reason" in headers or _broker_death(headers) is not None)


def round_after(said: int, headers: Mapping[str, object] | None) -> int:
    """Return the round of a message that has come back from a dead-letter queue.

    Whoever sends it again raises what the message says. Of one that was moved as it is, this is the round after the one
    that it died in. Version 0.1 did not write that down: what the message says then counts. RabbitMQ changes no body,
    so each death by the broker counts as well.
    """
    headers = headers or {}
    died_in = _died_in(headers)
    if HEADER + "reason" in headers and (died_in is None or said <= died_in):
        said = max(said, died_in or 0) + 1
    return min(said + _deaths_by_broker(headers), END_OF_ROUNDS - 1)


def sent_again(body: bytes, headers: Mapping[str, object] | None) -> tuple[bytes, dict[str, object]]:
    """Return the body and the headers under which to send a dead letter again, in a round above that of its death.

    Who repeats that, because an answer was lost, sends the same message. What has not died stays in its round, and a
    body that is no message stays as it is.
    """
    kept = dict(headers or {})
    if not has_been_dead(headers):
        return body, kept
    try:
        message = json.loads(body)
        options = message.setdefault("options", {})
        number = round_after(said_round(options), headers)
        options[ROUND_OPTION] = number
        raised = json.dumps(message, separators=(",", ":")).encode()
    except (ValueError, RecursionError, AttributeError, TypeError):  # no object, or not one of objects
        return body, kept
    return raised, {**kept, _ROUND_HEADER: number - 1}


def _died_in(headers: Mapping[str, object]) -> int | None:
    """The round that a dead letter died in; None if that was not written down."""
    found = headers.get(_ROUND_HEADER)
    return found if is_round(found) else None


def _broker_death(headers: Mapping[str, object]) -> Mapping[str, object] | None:
    return next(_broker_deaths(headers), None)


def _broker_deaths(headers: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    deaths = headers.get("x-death")
    for death in deaths if isinstance(deaths, list) else []:
        if isinstance(death, dict) and death.get("reason") in _BROKER_REASONS and not _is_of_the_ladder(death):
            yield death


def _deaths_by_broker(headers: Mapping[str, object]) -> int:
    counts = (death.get("count") for death in _broker_deaths(headers))
    return sum(count if is_round(count) and count else 1 for count in counts)


def _delayed_to(headers: Mapping[str, object]) -> str:
    """The queue that a message on the delay ladder was on its way to; empty if it was on no ladder."""
    deaths = headers.get("x-death")
    for death in deaths if isinstance(deaths, list) else []:
        keys = death.get("routing-keys") if isinstance(death, dict) and _is_of_the_ladder(death) else None
        if isinstance(keys, list) and keys and (found := _DELAYED_KEY.fullmatch(str(keys[0]))):
            return found[1]
    return ""


def _is_of_the_ladder(death: Mapping[str, object]) -> bool:
    # Whatever was delayed has expired in the queues of the ladder, and in the one for what is due.
    return str(death.get("queue")).startswith((DELAY_QUEUES, DUE_QUEUES))


# Anybody may write headers: of whatever type they are, a record's reader gets those that it expects.
def _number(value: object) -> int:
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else 0


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _fingerprint(actor: str, name: str, error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    place = (
        f"{frames[-1].filename.rsplit('/', 1)[-1]}:{frames[-1].name}" if frames else re.sub(r"\d+", "#", text_of(error))
    )
    return hashlib.sha256(f"{actor}|{name}|{place}".encode("utf-8", "backslashreplace")).hexdigest()[:12]
