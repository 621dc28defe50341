"""The private parts of pika that sends rest on, compared with what pika itself does."""

import socket
import struct
from collections.abc import Iterator
from unittest.mock import Mock

import pika
import pytest
from pika import frame, spec
from pika.adapters.utils.selector_ioloop_adapter import SelectorIOServicesAdapter

from jobkit.broker.loop import SteppedLoop
from jobkit.broker.publishing_connection import PublishingConnection

PROPERTIES = pika.BasicProperties(
    app_id="shop", content_type="application/json", delivery_mode=2, headers={"a": "b"}, message_id="1", timestamp=7
)


class Confirms(list[tuple[int, bool, bool]]):
    def __call__(self, tag: int, multiple: bool, taken: bool) -> None:
        self.append((tag, multiple, taken))


@pytest.fixture
def confirms() -> Confirms:
    return Confirms()


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.settimeout(5)
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.fixture
def connection(confirms: Confirms, ends: tuple[socket.socket, socket.socket]) -> Iterator[PublishingConnection]:
    loop = SteppedLoop()
    services = SelectorIOServicesAdapter(loop)
    built = PublishingConnection(pika.ConnectionParameters(), None, None, None, services, False)
    built._body_max_length = 1000
    built._transport = Mock(_sock=ends[0], get_write_buffer_size=lambda: 0)
    built.gather(confirms)
    yield built
    loop.close()


def confirm(tag: int, *, multiple: bool = False, taken: bool = True) -> bytes:
    method = spec.Basic.Ack(tag, multiple) if taken else spec.Basic.Nack(tag, multiple)
    return frame.Method(1, method).marshal()


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 2500])
def test_a_message_is_written_as_pika_writes_it(
    connection: PublishingConnection, ends: tuple[socket.socket, socket.socket], size: int
) -> None:
    body = b"x" * size
    connection.publish(1, "probe.jobs", "probe", body, PROPERTIES)
    connection.flush()
    method = spec.Basic.Publish(exchange="probe.jobs", routing_key="probe", mandatory=True)
    expected = [frame.Method(1, method).marshal(), frame.Header(1, size, PROPERTIES).marshal()]
    expected += [frame.Body(1, body[start : start + 1000]).marshal() for start in range(0, size, 1000)]
    assert ends[1].recv(10_000) == b"".join(expected)
    assert connection.bytes_sent == sum(map(len, expected))


def test_what_a_socket_does_not_take_is_left_to_pika_in_order(
    connection: PublishingConnection, ends: tuple[socket.socket, socket.socket]
) -> None:
    ends[0].setblocking(False)
    left: list[bytes] = []
    connection._transport = Mock(_sock=ends[0], write=left.append, get_write_buffer_size=lambda: len(left))
    for number in range(20_000):
        connection.publish(1, "", "probe", str(number).encode() * 20, PROPERTIES)
    connection.flush()
    ends[0].close()
    received = b""
    while part := ends[1].recv(100_000):
        received += part
    assert left
    bodies = [body for kind, body in frames(received + b"".join(left)) if kind == spec.FRAME_BODY]
    assert bodies == [str(number).encode() * 20 for number in range(20_000)]


def frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    start = 0
    while start < len(data):
        kind, _channel, size = struct.unpack_from(">BHI", data, start)
        yield kind, data[start + 7 : start + 7 + size]
        start += size + 8


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_confirms_are_read_wherever_the_data_is_cut(
    connection: PublishingConnection, confirms: Confirms, cut: int
) -> None:
    data = (
        confirm(1) + confirm(7, multiple=True) + frame.Heartbeat().marshal() + confirm(8, taken=False) + confirm(2**40)
    )
    connection._on_data_available(data[:cut])
    connection._on_data_available(data[cut:])
    assert confirms == [(1, False, True), (7, True, True), (8, False, False), (2**40, False, True)]
    assert connection.bytes_received == len(data), "which shows the heartbeat that the peer lives"


def test_what_is_no_frame_ends_the_connection_and_raises_nothing_in_the_sender(
    connection: PublishingConnection, ends: tuple[socket.socket, socket.socket]
) -> None:
    ends[1].sendall(b"\x01\x00\x01\x00\x00\x00\x04\x00\x3c\x00\x50!")
    connection._set_connection_state(connection.CONNECTION_OPEN)
    ended = Mock()
    connection._terminate_stream = ended  # type: ignore[method-assign]
    assert connection.receive(ends[0].fileno())
    assert ended.called
