"""A network that can freeze: a TCP proxy on the loopback interface."""

import socket
import struct
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

#: Seconds between two looks at whether the connection is to end.
POLL = 0.25
#: Seconds that a connection stays frozen at the most.
LONGEST_FREEZE = 120.0
CHUNK = 65_536
#: Closing with it sends RST instead of FIN (socket(7), SO_LINGER).
RESET = struct.pack("ii", 1, 0)


class Proxy:
    """Forwards connections to one port, until it is frozen."""

    def __init__(self, target: int) -> None:
        self._target = ("127.0.0.1", target)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(POLL)
        self._flowing = threading.Event()
        self._flowing.set()
        self._refusing = threading.Event()
        self._ended = threading.Event()
        self._links: set[_Link] = set()
        self._lock = threading.Lock()

    @property
    def port(self) -> int:
        """Where to connect to."""
        return int(self._listener.getsockname()[1])

    def refuse(self) -> None:
        """Reset every new connection; those that there are stay."""
        self._refusing.set()

    def accept(self) -> None:
        """Forward new connections again."""
        self._refusing.clear()

    def freeze(self) -> None:
        """Forward nothing more. Connections stay open, and new ones are accepted and hear nothing."""
        self._flowing.clear()

    def reset(self) -> None:
        """Let half of each chunk that was held through, which cuts frames in two; reset all; and flow again."""
        with self._lock:
            links, self._links = self._links, set()
            self._flowing.set()
        for link in links:
            link.cut()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                client = self._listener.accept()[0]
            except TimeoutError:
                continue
            except OSError:
                return
            try:
                if self._refusing.is_set():
                    raise ConnectionRefusedError
                server = socket.create_connection(self._target, timeout=5)
            except OSError:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                client.close()
                continue
            link = _Link(client, server, self._flowing)
            with self._lock:
                self._links.add(link)
            link.start()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._listener.close()
        self.reset()


class _Link:
    """The two ends of one connection, with a thread for each direction."""

    def __init__(self, client: socket.socket, server: socket.socket, flowing: threading.Event) -> None:
        self._ends = (client, server)
        self._flowing = flowing
        self._cut = threading.Event()
        self._lock = threading.Lock()
        self._held: dict[socket.socket, bytes] = {}
        for end in self._ends:
            end.settimeout(POLL)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def start(self) -> None:
        """Forward in both directions until one end closes."""
        client, server = self._ends
        for source, sink in ((client, server), (server, client)):
            threading.Thread(target=self._pump, args=(source, sink), name="proxy-link", daemon=True).start()

    def cut(self) -> None:
        """Let half of what was held through, and reset both ends."""
        self._cut.set()
        with self._lock, suppress(OSError):
            for sink, held in self._held.items():
                sink.send(held[: len(held) // 2])
        self._close(abruptly=True)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while not self._cut.is_set():
                try:
                    chunk = source.recv(CHUNK)
                except TimeoutError:
                    continue
                if not chunk:
                    break
                if not self._flowing.is_set():
                    with self._lock:
                        self._held[sink] = chunk
                    self._cut.wait(LONGEST_FREEZE)
                    return
                self._forward(chunk, sink)
        except OSError:
            pass
        finally:
            self._close(abruptly=False)

    def _forward(self, chunk: bytes, sink: socket.socket) -> None:
        rest = memoryview(chunk)
        while rest and not self._cut.is_set():
            with suppress(TimeoutError):
                rest = rest[sink.send(rest) :]

    def _close(self, *, abruptly: bool) -> None:
        for end in self._ends:
            with suppress(OSError):
                if abruptly:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                else:
                    end.shutdown(socket.SHUT_RDWR)
            end.close()
