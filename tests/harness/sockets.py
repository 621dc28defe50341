"""This process's TCP connections to a port, seen and cut from below: no client library notices who did it."""

import os
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

_ESTABLISHED = 1  # tcp(7), TCP_INFO: the first byte is the state


@contextmanager
def _connected_to(port: int) -> Iterator[list[socket.socket]]:
    """Copies of the sockets that are connected to ``port``."""
    with ExitStack() as stack:
        copies = []
        for descriptor in list(Path("/dev/fd").iterdir()):
            with suppress(OSError):  # not connected, or closed just now
                if stat.S_ISSOCK(os.fstat(int(descriptor.name)).st_mode):
                    copy = stack.enter_context(socket.socket(fileno=os.dup(int(descriptor.name))))
                    if copy.family is socket.AF_INET and copy.getpeername()[1] == port:
                        copies.append(copy)
        yield copies


def connections(port: int) -> set[int]:
    """This side's port of each connection to ``port`` on which neither side has hung up."""
    with _connected_to(port) as copies:
        return {one.getsockname()[1] for one in copies if _state(one) == _ESTABLISHED}


def cut(port: int) -> int:
    """End all connections to ``port``, as a network that fails does, and return how many there were."""
    with _connected_to(port) as copies:
        for one in copies:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        return len(copies)


def _state(one: socket.socket) -> int:
    if sys.platform != "linux":
        return _ESTABLISHED  # what hung up has no peer's name any more
    return one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO) & 0xFF
