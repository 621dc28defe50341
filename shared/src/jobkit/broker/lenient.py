"""A connection that outlives headers which its client library cannot read, and knows a peer that is no broker.

AMQP allows a time beyond the year 9999 and arrays ten thousand deep; pika fails on them where it reads the frame, and
the connection with it. The broker would deliver the message again at once, a hundred times, and each time take back
with it the good jobs that were prefetched, until they too had been delivered too often.

A peer that speaks something else is told apart from one that hangs up: pika waits for the rest of what it takes for a
long frame, and in the end says of both that they closed the connection.
"""

import logging
import struct
from typing import Any

from pika import frame, spec
from pika.adapters.select_connection import SelectConnection
from pika.exceptions import IncompatibleProtocolError, InvalidFrameError

log = logging.getLogger(__name__)

_PROPERTIES = spec.BasicProperties

#: Bytes in the payload of a header frame before the properties: class, weight and body size (AMQP 0-9-1, 4.2.6.1).
_BEFORE_PROPERTIES = 12

#: What a broker's first frame begins with: it holds a method, on channel 0 (AMQP 0-9-1, 2.3.5 and 4.2.3). A broker that
#: does not speak this version answers with the header of one that it speaks (4.2.2).
_FIRST_FRAME = struct.pack(">BH", spec.FRAME_METHOD, 0)


class NoAmqp(IncompatibleProtocolError):
    """What answers speaks something else than AMQP 0-9-1."""


class LenientConnection(SelectConnection):
    """Delivers a message whose headers cannot be read without them. No job needs its headers to run."""

    def _on_data_available(self, data_in: bytes) -> None:
        if self.connection_state == self.CONNECTION_PROTOCOL and self._error is None:
            begun = (self._frame_buffer + data_in)[: len(_FIRST_FRAME)]
            if not _FIRST_FRAME.startswith(begun):
                self._terminate_stream(NoAmqp(f"it answers {data_in[:20]!r}"))
                return
        super()._on_data_available(data_in)

    def _process_frame(self, frame_value: frame.Frame | frame.ProtocolHeader) -> None:
        if isinstance(frame_value, frame.Header | frame.Body):  # two of a message's three: nothing waits for one
            self.frames_received += 1
            self._deliver_frame_to_channel(frame_value)
        else:
            super()._process_frame(frame_value)

    # Any: pika hands on whichever frame it was.
    def _read_frame(self) -> tuple[int, Any]:
        try:
            return super()._read_frame()
        except InvalidFrameError:  # it does not end where it says, so nobody knows where the next one begins
            raise
        except Exception as error:  # of as many types as there are fields
            if self._frame_buffer[0] != spec.FRAME_HEADER:
                raise
            log.warning("a message's headers cannot be read and are left out: %s", repr(error)[:200])
            return _without_headers(self._frame_buffer)


def _without_headers(buffer: bytes) -> tuple[int, frame.Header]:
    """The header frame at the start of ``buffer``, and its length."""
    _kind, channel, size = struct.unpack_from(">BHI", buffer)
    payload = buffer[spec.FRAME_HEADER_SIZE : spec.FRAME_HEADER_SIZE + size]
    (body_size,) = struct.unpack_from(">Q", payload, 4)
    properties = _PROPERTIES()
    properties.decode(_cut_out(payload[_BEFORE_PROPERTIES:]))
    return spec.FRAME_HEADER_SIZE + size + spec.FRAME_END_SIZE, frame.Header(channel, body_size, properties)


def _cut_out(encoded: bytes) -> bytes:
    """A property list without its headers, which stand third, behind two short strings."""
    (flags,) = struct.unpack_from(">H", encoded)
    start = 2
    for flag in (_PROPERTIES.FLAG_CONTENT_TYPE, _PROPERTIES.FLAG_CONTENT_ENCODING):
        if flags & flag:
            start += 1 + encoded[start]
    if not flags & _PROPERTIES.FLAG_HEADERS:
        return encoded
    (length,) = struct.unpack_from(">I", encoded, start)
    return struct.pack(">H", flags & ~_PROPERTIES.FLAG_HEADERS) + encoded[2:start] + encoded[start + 4 + length :]
