"""Headers that pika cannot read cost a message its headers, and nobody a connection."""

import struct

import pika
import pytest
from pika import frame, spec
from pika.adapters.select_connection import SelectConnection
from pika.exceptions import InvalidFrameError

from jobkit.broker.lenient import LenientConnection

CHANNEL, BODY_SIZE = 3, 1234


def array(depth: int) -> bytes:
    value = b"V"
    for _ in range(depth):
        value = b"A" + struct.pack(">I", len(value)) + value
    return value


UNREADABLE = {
    "a time beyond 64 bits": b"\x01xT" + b"\xff" * 8,
    "a time in the year 292277026596": b"\x01xT" + struct.pack(">Q", 2**63 - 1),
    "arrays 10,000 deep": b"\x01x" + array(10_000),
    "a type that nobody knows": b"\x01x?",
}


class WithTable(pika.BasicProperties):
    """Properties whose headers are given as bytes."""

    table: bytes

    def encode(self) -> list[bytes]:
        flags, *rest = super().encode()  # type: ignore[no-untyped-call]  # pika's has no annotations
        short = sum(len(piece) for piece in rest[:4])  # content type and encoding, each with its length
        encoded = b"".join(rest)
        (value,) = struct.unpack(">H", flags)
        table = struct.pack(">I", len(self.table)) + self.table
        return [struct.pack(">H", value | self.FLAG_HEADERS), encoded[:short], table, encoded[short:]]


def header_frame(table: bytes) -> bytes:
    properties = WithTable(  # type: ignore[no-untyped-call]  # nor has its constructor
        content_type="text/plain", content_encoding="utf-8", message_id="id-1", type="probe"
    )
    properties.table = table
    return bytes(frame.Header(CHANNEL, BODY_SIZE, properties).marshal())


def read(received: bytes) -> tuple[int, frame.Header]:
    connection = LenientConnection.__new__(LenientConnection)  # only its buffer is needed, and nothing to connect to
    connection._frame_buffer = received
    return connection._read_frame()


@pytest.mark.parametrize("table", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_a_message_with_unreadable_headers_keeps_its_other_properties(table: bytes) -> None:
    received = header_frame(table)
    consumed, header = read(received + b"what comes next")
    assert consumed == len(received)
    assert (header.channel_number, header.body_size) == (CHANNEL, BODY_SIZE)
    properties = header.properties
    assert (properties.headers, properties.message_id, properties.type) == (None, "id-1", "probe")
    assert (properties.content_type, properties.content_encoding) == ("text/plain", "utf-8")


def test_headers_that_can_be_read_are_read() -> None:
    _, header = read(header_frame(b"\x01xI\x00\x00\x00\x07"))
    assert header.properties.headers == {"x": 7}


def test_a_frame_that_has_not_arrived_whole_is_waited_for() -> None:
    received = header_frame(UNREADABLE["arrays 10,000 deep"])
    consumed, header = read(received[:-1])
    assert consumed == 0
    assert header is None


def test_pika_itself_still_fails_so_this_is_still_needed() -> None:
    connection = SelectConnection.__new__(SelectConnection)
    connection._frame_buffer = header_frame(UNREADABLE["a time beyond 64 bits"])
    with pytest.raises(OverflowError):
        connection._read_frame()


def test_a_frame_that_does_not_end_where_it_says_is_an_error() -> None:
    sound = bytes(frame.Header(CHANNEL, BODY_SIZE, pika.BasicProperties(message_id="id-1")).marshal())
    with pytest.raises(InvalidFrameError):
        read(sound[:-1] + b"\x00")


def test_another_frame_that_cannot_be_read_is_an_error() -> None:
    no_such_method = struct.pack(">BHI", spec.FRAME_METHOD, CHANNEL, 4) + struct.pack(">HH", 999, 999) + b"\xce"
    with pytest.raises(KeyError):
        read(no_such_method)
