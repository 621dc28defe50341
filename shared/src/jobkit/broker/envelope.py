"""An ordinary Dramatiq message as AMQP carries it: the body, and the properties that other systems look at."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeGuard

import pika
from dramatiq import Message

from jobkit import compact_json
from jobkit.contracts.job import CONTRACT_VERSION_OPTION
from jobkit.contracts.payload import PayloadChanged
from jobkit.deadletters import has_been_dead, round_after
from jobkit.errors import LONGEST_DELAY, Undecodable
from jobkit.execution import (
    ATTEMPTS_OPTION,
    DELAY_OPTION,
    DUE_OPTION,
    EXCUSED_OPTION,
    MOMENT_OPTION,
    REFUSED_OPTION,
    SUSPECTED_OPTION,
    in_round,
    without_history,
)
from jobkit.rounds import END_OF_ROUNDS, ROUND_OPTION, said_round
from jobkit.time import milliseconds

#: What ``Message.asdict`` looks up at each call.
_FIELDS = tuple(field.name for field in dataclasses.fields(Message))

#: W3C trace context: in the AMQP headers on the wire, in the message's options inside a process.
TRACE_HEADERS = ("traceparent", "tracestate")

#: Bytes in UTF-8. Ids are part of store keys and of AMQP properties (at most 255 bytes): short and printable.
MAX_ID_LENGTH = 200

#: The same in words.
ID_RULE = f"printable text of 1 to {MAX_ID_LENGTH} bytes"

#: Bytes. The W3C asks for 512 at least; more would not fit beside the rest in a header frame.
_MAX_TRACE_HEADER = 512

#: Arrays and objects in each other. A payload is a form, not a tree; what is read here has to be written again by a
#: thread whose stack is deeper, and Python gives up some hundred levels earlier there.
MAX_DEPTH = 100

#: The last millisecond of the year 9999. AMQP and the store's numbers end later, dates end here.
_LAST_TIMESTAMP = 253_402_300_799_999

_CONTAINERS = (dict, list)

#: Options by which a sender would tell Dramatiq's worker what to do: to hold the message in memory until a time, and
#: which exceptions to expect (a name there, where it looks for a class, ends the worker's thread).
_NOT_THE_SENDERS = ("eta", "throws")

#: W3C baggage, which a sender's telemetry adds. Its reader logs what is longer than it takes, in full.
_BAGGAGE, _MAX_BAGGAGE = "baggage", 8192

#: Options that are whole numbers, and the least that each may not be: more attempts than any policy makes, times beyond
#: the year 9999, more rounds than a job can have, waits longer than any delay.
_NUMBERS = {
    ATTEMPTS_OPTION: 10_000,
    MOMENT_OPTION: _LAST_TIMESTAMP + 1,
    ROUND_OPTION: END_OF_ROUNDS,
    DUE_OPTION: _LAST_TIMESTAMP + 1,
    DELAY_OPTION: milliseconds(LONGEST_DELAY) + 1,
    EXCUSED_OPTION: 2**28,
    REFUSED_OPTION: 2**28,
    SUSPECTED_OPTION: 2,
}

#: Taken over one by one, each if it is what it should be.
_CHECKED_OPTIONS = {*_NOT_THE_SENDERS, *TRACE_HEADERS, *_NUMBERS, _BAGGAGE}


def encoded(message: Message[Any]) -> bytes:
    """Return the body of a message; raises ``PayloadChanged`` if it cannot be written."""
    try:
        return compact_json.encode({name: getattr(message, name) for name in _FIELDS})
    except Exception as error:  # such as an integer of more digits than Python writes
        culprit = next((name for name, value in message.kwargs.items() if not _is_json(value)), "payload")
        raise PayloadChanged(f"{message.actor_name}: {culprit} cannot be written as JSON: {error}") from error


def _is_json(value: object) -> bool:
    try:
        compact_json.encode(value)
    except Exception:
        return False
    return True


def properties_of(message: Message[Any], app_id: str, headers: dict[str, object] | None = None) -> pika.BasicProperties:
    """The AMQP properties of a message that is about to be published."""
    return pika.BasicProperties(
        app_id=app_id,
        content_encoding="utf-8",
        content_type="application/json",
        delivery_mode=pika.DeliveryMode.Persistent.value,
        headers={**trace_of(message.options), **(headers or {})},
        message_id=message.message_id,
        timestamp=message.message_timestamp // 1000,
        type=message.actor_name,
    )


def trace_of(carrier: Mapping[str, object] | None) -> dict[str, str]:
    """The trace context in a message's headers or options, without what is none."""
    if not carrier:
        return {}
    return {name: value for name in TRACE_HEADERS if _is_trace_header(value := carrier.get(name))}


def decode(body: bytes, properties: pika.BasicProperties, queue: str) -> Message[Any]:
    """The message in a body that anybody may have written.

    The queue is the one that it came from, whatever the body says: Dramatiq looks its consumer up by that name. A dead
    letter that has come back is a message of its next round, with all its attempts.

    Raises:
        Undecodable: the body is not a Dramatiq message, with the reason.
    """
    try:
        fields = compact_json.decode(body)
    except (ValueError, RecursionError) as error:
        raise Undecodable(f"the body is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise Undecodable(f"the body is a JSON {type(fields).__name__}, not an object")
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH and is_deeper(fields, MAX_DEPTH):
        raise Undecodable(f"the body nests arrays and objects more than {MAX_DEPTH} deep")
    kwargs = _field(fields, "kwargs", dict, {})
    if "self" in kwargs:
        raise Undecodable("kwargs names an argument 'self', which no actor can take")
    timestamp = _field(fields, "message_timestamp", int, 0)
    if not 0 <= timestamp <= _LAST_TIMESTAMP:
        raise Undecodable("message_timestamp is no time in milliseconds since 1970")
    message: Message[Any] = Message(
        queue_name=queue,
        actor_name=_field(fields, "actor_name", str),
        args=tuple(_field(fields, "args", list, [])),
        kwargs=kwargs,
        options=_options(_field(fields, "options", dict, {}), properties.headers),
        message_id=_identifier(fields),
        message_timestamp=timestamp,
    )
    if not has_been_dead(properties.headers):
        return message
    return in_round(without_history(message), round_after(said_round(message.options), properties.headers))


def is_usable_id(identifier: str) -> bool:
    """Whether a job may have this id."""
    return identifier.isprintable() and 0 < len(identifier.encode()) <= MAX_ID_LENGTH


def contract_version(message: Message[Any]) -> object:
    """The version of the contract that the message says it was written under."""
    return message.options.get(CONTRACT_VERSION_OPTION, 1)


def _identifier(fields: dict[str, Any]) -> str:
    identifier: str = _field(fields, "message_id", str)
    if not is_usable_id(identifier):
        raise Undecodable(f"message_id must be {ID_RULE}")
    return identifier


def _options(sent: dict[str, Any], headers: Mapping[str, object] | None) -> dict[str, Any]:
    """The options that a worker heeds, in the types that it relies on; others are left as they are."""
    kept = {name: value for name, value in sent.items() if name not in _CHECKED_OPTIONS or _is_sound(name, value)}
    return {**kept, **trace_of(headers)} if headers else kept


def _is_sound(name: str, value: object) -> bool:
    """Whether an option that is checked is what it should be."""
    if name in _NUMBERS:
        return type(value) is int and 0 <= value < _NUMBERS[name]  # a bool is no number to the store
    if name == _BAGGAGE:
        return isinstance(value, str) and len(value) <= _MAX_BAGGAGE
    return name in TRACE_HEADERS and _is_trace_header(value)


def is_deeper(value: object, limit: int) -> bool:
    """Whether containers are nested more than ``limit`` deep; without recursion, as it guards against that."""
    level = [value]
    for _ in range(limit):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)  # type: ignore[attr-defined]  # a list
            if isinstance(inner, _CONTAINERS)
        ]
        if not level:
            return False
    return True


def _is_trace_header(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and len(value) <= _MAX_TRACE_HEADER and value.isascii()


# Any: what JSON holds. Each caller names the type that it wants, and gets that or an error.
def _field(fields: dict[str, Any], name: str, wanted: type, default: Any = None) -> Any:
    value = fields.get(name, default)
    if type(value) is wanted:
        return value
    if not isinstance(value, wanted) or isinstance(value, bool):
        found = "missing" if name not in fields else f"a {type(value).__name__}"
        raise Undecodable(f"{name} is {found}, not a {wanted.__name__}")
    return value
