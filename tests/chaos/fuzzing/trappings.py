"""AMQP properties and headers that lie, overflow, or that a client library cannot read."""

import struct
from collections.abc import Sequence

import pika
from hostile import BAD_PAYLOAD, LEGAL, UNDECODABLE, Draft, Edit, Kind, headers, properties

#: Bytes. The broker takes no larger header frame (``frame_max``, 131,072), and adds headers of its own.
NEARLY_A_FRAME = 130_900


class Crafted(pika.BasicProperties):
    """Properties whose headers are bytes of our own: pika would refuse to write them, other clients do not."""

    def __init__(self, table: bytes, message_id: bytes) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # pika's has no annotations
        self._table = table
        self._id = message_id

    def encode(self) -> Sequence[bytes]:
        """The property list (AMQP 0-9-1, 4.2.6.1): headers, delivery mode and message id."""
        flags = self.FLAG_HEADERS | self.FLAG_DELIVERY_MODE | self.FLAG_MESSAGE_ID
        identifier = bytes([len(self._id)]) + self._id
        return [struct.pack(">HI", flags, len(self._table)), self._table, b"\x02", identifier]


def _table(name: bytes, value: bytes) -> Edit:
    def edit(d: Draft) -> None:
        d.properties = Crafted(bytes([len(name)]) + name + value, d.token.encode())

    return edit


def _arrays(depth: int) -> bytes:
    value = b"V"
    for _ in range(depth):
        value = b"A" + struct.pack(">I", len(value)) + value
    return value


def _tables(depth: int) -> bytes:
    value = b"V"
    for _ in range(depth):
        value = b"F" + struct.pack(">I", len(value) + 2) + b"\x01a" + value
    return value


def _nested(depth: int) -> dict[str, object]:
    return {"a": _nested(depth - 1), "b": [depth]} if depth else {}


def _no_id(d: Draft) -> None:
    d.properties.message_id = None


def _unreadable(d: Draft) -> None:
    d.body = b"\xff"
    properties(type=b"\xff\xfe", app_id=b"\xff", content_type=b"\xff\x00", timestamp=2**64 - 1)(d)


def _oversized_trace(d: Draft) -> None:
    d.body = b"\xff"
    headers(traceparent="x" * NEARLY_A_FRAME)(d)


DEATH = {"queue": "email", "reason": "rejected", "count": 10**12, "exchange": "", "routing-keys": ["x"]}
NO_DEATHS: tuple[object, ...] = ("x", 7, ["x", 7], [[]], {})

HEADERS = (
    Kind("headers nearly a frame long", BAD_PAYLOAD, headers(x="x" * NEARLY_A_FRAME), rarity=10),
    Kind("5,000 headers", BAD_PAYLOAD, headers(**{f"h{n}": n for n in range(5_000)}), rarity=10),
    Kind("traceparent nearly a frame long", BAD_PAYLOAD, headers(traceparent="x" * NEARLY_A_FRAME), rarity=10),
    Kind("the same, and no message", UNDECODABLE, _oversized_trace, rarity=10),
    Kind("tracestate nearly a frame long", BAD_PAYLOAD, headers(tracestate="a=b," * 30_000), rarity=10),
    Kind("traceparent is a table", BAD_PAYLOAD, headers(traceparent={"a": [1, None]})),
    Kind("traceparent is not UTF-8", BAD_PAYLOAD, headers(traceparent=b"\xff" * 99)),
    Kind("nested tables", BAD_PAYLOAD, headers(x=_nested(40))),
    Kind("x-death forged", BAD_PAYLOAD, headers(x_death=[DEATH])),
    Kind("x-death forged, good job", LEGAL, headers(x_death=[DEATH], x_delivery_count=10**6), rarity=20),
    *(Kind(f"x-death is {value!r}", BAD_PAYLOAD, headers(x_death=value)) for value in NO_DEATHS),
    Kind("failure-reason forged", BAD_PAYLOAD, headers(failure_reason="poison", failure_attempts=99)),
    Kind("failure-reason forged, good job", LEGAL, headers(failure_reason="poison"), rarity=20),
    Kind("failure-* of wrong types", BAD_PAYLOAD, headers(failure_reason=[{}], failure_attempts="x", failure_queue=7)),
    *(
        Kind(f"header {name}", LEGAL, _table(b"x", value), rarity=5)
        for name, value in {
            # RabbitMQ itself takes no NaN and no infinity: it closes the sender's connection.
            "in the year 292277026596": b"T" + struct.pack(">Q", 2**63 - 1),
            "a time beyond 64 bits": b"T" + b"\xff" * 8,
            "arrays 20,000 deep": _arrays(20_000),
            "tables 10,000 deep": _tables(10_000),
            "arrays 300 deep": _arrays(300),
            "a decimal of 255 places": b"D\xff\x7f\xff\xff\xff",
            "raw bytes": b"x\x00\x00\x00\x02\xff\xfe",
        }.items()
    ),
    Kind("a header's name is not UTF-8", LEGAL, _table(b"\xff\xfe", b"V"), rarity=10),
)

PROPERTIES = (
    Kind("no message_id", BAD_PAYLOAD, _no_id),
    Kind("another message_id", BAD_PAYLOAD, properties(message_id="another")),
    Kind("message_id is not UTF-8", BAD_PAYLOAD, properties(message_id=b"\xff\x00\n")),
    Kind("no property is UTF-8", UNDECODABLE, _unreadable),
    Kind("type and app_id 255 long", BAD_PAYLOAD, properties(type="é" * 127, app_id="x" * 255, cluster_id="x" * 255)),
    Kind("content_encoding lies", BAD_PAYLOAD, properties(content_encoding="gzip", content_type="image/png")),
    Kind("priority", BAD_PAYLOAD, properties(priority=255)),
    Kind(
        "user_id, reply_to, correlation_id",
        BAD_PAYLOAD,
        properties(user_id="guest", reply_to="email", correlation_id="\n"),
    ),
    Kind("not persistent", BAD_PAYLOAD, properties(delivery_mode=1)),
    Kind("expires in an hour", BAD_PAYLOAD, properties(expiration="3600000")),
    Kind("expires at once", ("expired", *BAD_PAYLOAD), properties(expiration="0")),
)
