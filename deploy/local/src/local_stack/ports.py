"""Free ports of the loopback interface."""

import random
import socket

from local_stack.errors import PortTaken

LOOPBACK = "127.0.0.1"  #: The one address that nodes bind to: nothing here is meant for another machine.

#: Below the range from which kernels draw ports for outgoing connections (RFC 6335, Linux: from 32768), so that a node
#: that is restarted finds its port still free.
_RANGE = range(20_000, 32_000)


def free_port() -> int:
    """Return a port on which nothing listens now. Another process may still take it before it is used."""
    return free_ports(1)[0]


def free_ports(count: int) -> tuple[int, ...]:
    """Return ``count`` different ports on which nothing listens now.

    Raises:
        PortTaken: nearly every port of the range is in use.
    """
    candidates = random.sample(_RANGE, k=200 + count)
    free = [port for port in candidates if is_free(port)][:count]
    if len(free) < count:
        raise PortTaken(f"no free port between {_RANGE.start} and {_RANGE.stop} on {LOOPBACK}: stop some listeners")
    return tuple(free)


def is_free(port: int) -> bool:
    """Tell whether a server could listen on ``port`` of the loopback interface."""
    with socket.socket() as probe:
        # As servers do: connections of the last owner that linger in TIME_WAIT do not matter, a listener does.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def require_free(port: int, user: str) -> None:
    """Check that ``user`` can listen on ``port``.

    Raises:
        PortTaken: it cannot.
    """
    if not is_free(port):
        raise PortTaken(
            f"{user} cannot listen on {LOOPBACK}:{port} because another process does: "
            "stop that process, or name no port to get a free one"
        )
