"""What pika's connection takes too long for. All that is no public interface of pika's is in this file.

For each message, stock pika makes five system calls and looks for the callback of its confirm in several tables.
"""

import ssl
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Final

from pika import BasicProperties, frame, spec
from pika.exceptions import AMQPError

from jobkit.broker.lenient import LenientConnection

#: Bytes that are written at once: about what a socket takes.
_CHUNK: Final = 65_536

# AMQP 0-9-1, 4.2.3 and 4.2.6: type, channel and size of a frame; then class, weight and size of a message's body.
_FRAME: Final = struct.Struct(">BHI")
_HEADER: Final = struct.Struct(">BHIHxxQ")
_END: Final = bytes([spec.FRAME_END])
_BASIC: Final = spec.Basic.INDEX
_BEFORE_PROPERTIES: Final = 12

#: A confirm as a frame: type, channel, size, class, method, tag, multiple, end. RabbitMQ sends little else.
_CONFIRM: Final = struct.Struct(">BHIHHQBB")
_ACK: Final = spec.Basic.Ack.INDEX & 0xFFFF
_NACK: Final = spec.Basic.Nack.INDEX & 0xFFFF
_CONFIRM_SIZE: Final = _CONFIRM.size - spec.FRAME_HEADER_SIZE - spec.FRAME_END_SIZE

#: What pika raises for what is no frame. Anything else comes from outside, such as from a signal's handler.
_UNREADABLE: Final = (AMQPError, AssertionError, LookupError, TypeError, ValueError, struct.error)

OnConfirm = Callable[[int, bool, bool], None]


class PublishingConnection(LenientConnection):
    """Writes many frames with one system call, and hands confirms on by the shortest way."""

    _on_confirm: OnConfirm | None = None
    _frames: list[bytes] | None = None
    _size = 0

    def gather(self, on_confirm: OnConfirm) -> None:
        """Keep frames back until ``flush`` from now on.

        Args:
            on_confirm: Called with each confirm: its tag, whether it counts for all tags below, and whether the broker
                has taken them.
        """
        self._on_confirm, self._frames = on_confirm, []

    def publish(self, channel: int, exchange: str, routing_key: str, body: bytes, properties: BasicProperties) -> None:
        """Publish a mandatory message; raises what pika raises if it cannot be written as AMQP."""
        encoded = b"".join(properties.encode())
        frames = [
            _method(channel, exchange, routing_key),
            _HEADER.pack(spec.FRAME_HEADER, channel, _BEFORE_PROPERTIES + len(encoded), _BASIC, len(body)),
            encoded,
            _END,
        ]
        for start in range(0, len(body), self._body_max_length):
            part = body[start : start + self._body_max_length]
            frames += _FRAME.pack(spec.FRAME_BODY, channel, len(part)), part, _END
        self._output_marshaled_frames(frames)

    def flush(self) -> None:
        """Write what was kept back."""
        transport = self._transport
        if not self._frames or transport is None:  # None: the connection was lost
            return
        chunk, self._size = b"".join(self._frames), 0
        self._frames.clear()
        sent = 0
        if not transport.get_write_buffer_size():
            with suppress(OSError):  # it takes nothing now, or is broken: pika waits for the one and reports the other
                sent = transport._sock.send(chunk)
                self.bytes_sent += sent
        if sent < len(chunk):
            super()._output_marshaled_frames([chunk[sent:]])

    def receive(self, fd: int) -> bool:
        """Read what has come over the socket ``fd``; return whether that was all there was to do.

        Otherwise pika reads it: over TLS, from another socket, or the end of the connection.
        """
        sock = getattr(self._transport, "_sock", None)
        if sock is None or isinstance(sock, ssl.SSLSocket) or sock.fileno() != fd:
            return False
        try:
            data = sock.recv(_CHUNK)
        except OSError:
            return False
        if not data:
            return False
        try:
            self._on_data_available(data)
        except _UNREADABLE as error:
            self._terminate_stream(error)
        return True

    def drop(self) -> None:
        """Close the socket without a word. The connection cannot be used again."""
        sock = getattr(self._transport, "_sock", None)
        if sock is not None:
            with suppress(OSError):
                sock.close()

    def _output_marshaled_frames(self, marshaled_frames: Sequence[bytes]) -> None:
        if self._frames is None:
            super()._output_marshaled_frames(marshaled_frames)
            return
        self._frames += marshaled_frames
        self._size += sum(map(len, marshaled_frames))
        if self._size >= _CHUNK:
            self.flush()

    def _on_data_available(self, data_in: bytes) -> None:
        start = 0
        while self._on_confirm is not None and not self._frame_buffer and len(data_in) - start >= _CONFIRM.size:
            kind, _channel, size, group, method, tag, bits, end = _CONFIRM.unpack_from(data_in, start)
            if (kind, size, group, end) != (spec.FRAME_METHOD, _CONFIRM_SIZE, _BASIC, spec.FRAME_END):
                break
            if method not in (_ACK, _NACK):
                break
            start += _CONFIRM.size
            self.bytes_received += _CONFIRM.size  # the heartbeat's proof of life
            self._on_confirm(tag, bool(bits & 1), method == _ACK)
        if start < len(data_in):
            super()._on_data_available(data_in[start:])

    # Any confirm that comes another way, as behind a part of a frame.
    def _process_frame(self, frame_value: frame.Frame | frame.ProtocolHeader) -> None:
        method = getattr(frame_value, "method", None)
        if self._on_confirm is not None and isinstance(method, spec.Basic.Ack | spec.Basic.Nack):
            self._on_confirm(method.delivery_tag, bool(method.multiple), isinstance(method, spec.Basic.Ack))
        else:
            super()._process_frame(frame_value)


@lru_cache(maxsize=256)
def _method(channel: int, exchange: str, routing_key: str) -> bytes:
    return frame.Method(
        channel, spec.Basic.Publish(exchange=exchange, routing_key=routing_key, mandatory=True)
    ).marshal()
