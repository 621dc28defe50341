"""A private Redis node."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from local_stack import packages, servers
from local_stack.node import Node
from local_stack.ports import LOOPBACK
from local_stack.process import Process


class Redis(Node):
    """Redis as job stores need it: append-only file, and no eviction, because an evicted lease is a job run twice.

    Args:
        data: folder for all files.
        port: a free one by default; the same at each start.
        appendonly: keep every write across restarts and kills.
        fsync: ``always`` loses nothing that was answered; ``everysec`` loses up to a second of it with the machine
            (not with the process). See redis.io, "Redis persistence".
        detached: outlive this process.
        environment: further variables of the server's process.
        options: further options of ``redis.conf``, by name.
    """

    title = "Redis"

    def __init__(
        self,
        data: Path,
        port: int | None = None,
        *,
        appendonly: bool = True,
        fsync: Literal["always", "everysec"] = "everysec",
        detached: bool = False,
        environment: Mapping[str, str] | None = None,
        options: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(data, {"clients": port}, detached=detached)
        self.appendonly = appendonly
        self.fsync = fsync
        self.environment = dict(environment or {})
        self.options = dict(options or {})

    @property
    def url(self) -> str:
        """``redis://`` address of database 0."""
        return f"redis://{LOOPBACK}:{self.ports['clients']}/0"

    def _spawn(self) -> tuple[Process, ...]:
        server = servers.find("redis")
        if server is None:
            raise packages.missing(["redis"])
        options = {
            "bind": LOOPBACK,
            "port": str(self.ports["clients"]),
            "dir": str(self.data),
            "daemonize": "no",
            "appendonly": "yes" if self.appendonly else "no",
            "appendfsync": self.fsync,
            "maxmemory-policy": "noeviction",
            "save": "",
            **self.options,
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        process = Process.spawn(
            [str(server), *arguments],
            log=self.log,
            environment={**os.environ, **self.environment},
            folder=self.data,
            detached=self.detached,
        )
        return (process,)

    def answers(self) -> bool:
        """Tell whether Redis answers a ping, and is done loading its file."""
        try:
            return self._call("PING") == b"+PONG"
        except OSError:
            return False

    def flush(self) -> None:
        """Forget every key, so that the next test begins with nothing."""
        self._call("FLUSHALL")

    def _call(self, command: str) -> bytes:
        # An inline command (redis.io, "Redis serialization protocol") needs no client library.
        with socket.create_connection((LOOPBACK, self.ports["clients"]), timeout=5) as connection:
            connection.sendall(command.encode() + b"\r\n")
            return connection.makefile("rb").readline().rstrip()
