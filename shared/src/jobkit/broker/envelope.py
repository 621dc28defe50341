"""An ordinary Dramatiq message as AMQP carries it: the body, and the properties that other systems look at."""

import json
from typing import Any

import pika
from dramatiq import Message

from jobkit.contracts.job import CONTRACT_VERSION_OPTION
from jobkit.errors import Undecodable

#: W3C trace context: in the AMQP headers on the wire, in the message's options inside a process.
TRACE_HEADERS = ("traceparent", "tracestate")

#: Bytes in UTF-8. Ids are part of store keys and of AMQP properties (at most 255 bytes): short and printable.
MAX_ID_LENGTH = 200

#: The same in words.
ID_RULE = f"printable text of 1 to {MAX_ID_LENGTH} bytes"

#: Bytes. The W3C asks for 512 at least; more would not fit beside the rest in a header frame.
_MAX_TRACE_HEADER = 512

#: The last millisecond of the year 9999. AMQP and the store's numbers end later, dates end here.
_LAST_TIMESTAMP = 253_402_300_799_999

#: Options by which a sender would tell Dramatiq's worker what to do: to hold the message in memory until a time, and
#: which exceptions to expect (a name there, where it looks for a class, ends the worker's thread).
_NOT_THE_SENDERS = ("eta", "throws")


def properties_of(message: Message[Any], app_id: str, headers: dict[str, object] | None = None) -> pika.BasicProperties:
    """The AMQP properties of a message that is about to be published."""
    trace = {name: message.options[name] for name in TRACE_HEADERS if _is_trace_header(message.options.get(name))}
    return pika.BasicProperties(
        app_id=app_id,
        content_encoding="utf-8",
        content_type="application/json",
        delivery_mode=pika.DeliveryMode.Persistent.value,
        headers={**trace, **(headers or {})},
        message_id=message.message_id,
        timestamp=message.message_timestamp // 1000,
        type=message.actor_name,
    )


def decode(body: bytes, properties: pika.BasicProperties, queue: str) -> Message[Any]:
    """The message in a body that anybody may have written.

    The queue is the one that it came from, whatever the body says: Dramatiq looks its consumer up by that name.

    Raises:
        Undecodable: the body is not a Dramatiq message, with the reason.
    """
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Undecodable(f"the body is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise Undecodable(f"the body is a JSON {type(fields).__name__}, not an object")
    options = _field(fields, "options", dict, {})
    for name in TRACE_HEADERS:
        if name in (properties.headers or {}):
            options[name] = str(properties.headers[name])
    kwargs = _field(fields, "kwargs", dict, {})
    if "self" in kwargs:
        raise Undecodable("kwargs names an argument 'self', which no actor can take")
    timestamp = _field(fields, "message_timestamp", int, 0)
    if not 0 <= timestamp <= _LAST_TIMESTAMP:
        raise Undecodable("message_timestamp is no time in milliseconds since 1970")
    for name in _NOT_THE_SENDERS:
        options.pop(name, None)
    return Message(
        queue_name=queue,
        actor_name=_field(fields, "actor_name", str),
        args=tuple(_field(fields, "args", list, [])),
        kwargs=kwargs,
        options=options,
        message_id=_identifier(fields),
        message_timestamp=timestamp,
    )


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


def _is_trace_header(value: object) -> bool:
    return isinstance(value, str) and len(value) <= _MAX_TRACE_HEADER and value.isascii()


# Any: what JSON holds. Each caller names the type that it wants, and gets that or an error.
def _field(fields: dict[str, Any], name: str, wanted: type, default: Any = None) -> Any:
    value = fields.get(name, default)
    if not isinstance(value, wanted) or isinstance(value, bool):
        found = "missing" if name not in fields else f"a {type(value).__name__}"
        raise Undecodable(f"{name} is {found}, not a {wanted.__name__}")
    return value
