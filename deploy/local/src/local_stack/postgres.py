"""A private PostgreSQL node."""

import os
import pwd
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from local_stack import packages, servers
from local_stack.errors import NodeFailed
from local_stack.node import Node
from local_stack.ports import LOOPBACK
from local_stack.process import Process

USER = "postgres"
PASSWORD = "postgres"  # noqa: S105  of a server that only the loopback interface reaches

_INITDB_SECONDS = 120


class Postgres(Node):
    """PostgreSQL from the newest of the system's packages, with a cluster of its own.

    PostgreSQL refuses to run as root: it then becomes ``postgres``, or ``nobody`` where there is no such user.

    Args:
        data: folder for all files.
        port: a free one by default; the same at each start.
        detached: outlive this process.
    """

    title = "PostgreSQL"
    stop_signal = signal.SIGINT  # its fast shutdown: SIGTERM would wait for every client to leave

    def __init__(self, data: Path, port: int | None = None, *, detached: bool = False) -> None:
        super().__init__(data, {"clients": port}, detached=detached)

    @property
    def url(self) -> str:
        """``postgresql://`` address of the database ``postgres``, for its owner."""
        return f"postgresql://{USER}:{PASSWORD}@{LOOPBACK}:{self.ports['clients']}/postgres"

    def _spawn(self) -> tuple[Process, ...]:
        server = servers.find("postgres")
        if server is None:
            raise packages.missing(["postgres"])
        cluster = self.data / "cluster"
        user = _unprivileged_user()
        if not (cluster / "PG_VERSION").exists():
            _create(server.with_name("initdb"), cluster, user)
        options = {
            "listen_addresses": LOOPBACK,
            "port": str(self.ports["clients"]),
            "unix_socket_directories": "",
        }
        arguments = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with _reachable(cluster, user) as (folder, descriptors):
            command = [str(server), "-D", folder, *arguments]
            log, at = self.log, Path("/")
            return (Process.spawn(command, log=log, folder=at, user=user, inherit=descriptors, detached=self.detached),)

    def answers(self) -> bool:
        """Tell whether the server accepts connections."""
        server = servers.find("postgres")
        if server is None:
            return False
        probe = [str(server.with_name("pg_isready")), "-q", "-h", LOOPBACK, "-p", str(self.ports["clients"]), "-t", "2"]
        return subprocess.run(probe, check=False, timeout=10).returncode == 0  # noqa: S603  the system's own tool


def _unprivileged_user() -> str | None:
    """Return the user to become, or None if we are not root."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in names), None)


@contextmanager
def _reachable(cluster: Path, user: str | None) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Return a name for the folder that another user can follow, and the descriptors to inherit for it.

    That user may not enter the folders above it (a checkout in /root, a test's own temporary folder), but may use an
    open descriptor of the folder itself (proc(5), ``/proc/self/fd``).
    """
    if user is None:
        yield str(cluster), ()
        return
    if sys.platform != "linux":
        raise NodeFailed("PostgreSQL refuses to run as root: run this as your own user")
    descriptor = os.open(cluster, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}", (descriptor,)
    finally:
        os.close(descriptor)


def _create(initdb: Path, cluster: Path, user: str | None) -> None:
    shutil.rmtree(cluster, ignore_errors=True)  # what an interrupted start has left
    cluster.mkdir(mode=0o700)
    password = cluster.with_name("password")
    password.write_text(PASSWORD)
    if user:
        shutil.chown(cluster, user)
        shutil.chown(password, user)  # initdb opens it again through its standard input
    locale = "C" if sys.platform == "darwin" else "C.UTF-8"  # macOS sorts by code point in C, too
    options = ["-U", USER, "--pwfile=/dev/stdin", "--auth=scram-sha-256", "--encoding=UTF8", f"--locale={locale}"]
    with password.open() as given, _reachable(cluster, user) as (folder, descriptors):
        done = subprocess.run(  # noqa: S603  the system's own tool
            [str(initdb), "-D", folder, *options],
            stdin=given,
            capture_output=True,
            text=True,
            timeout=_INITDB_SECONDS,
            check=False,
            cwd="/",
            pass_fds=descriptors,
            user=user,
            group=pwd.getpwnam(user).pw_gid if user else None,
            extra_groups=[] if user else None,
        )
    password.unlink()
    if done.returncode != 0:
        shutil.rmtree(cluster, ignore_errors=True)
        raise NodeFailed(f"PostgreSQL could not create its data folder {cluster}: {done.stderr.strip()}")
