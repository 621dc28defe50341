"""A private RabbitMQ node."""

import http.client
import json
import os
import shutil
import socket
import subprocess
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from local_stack import packages, servers
from local_stack.errors import NodeFailed
from local_stack.node import Node
from local_stack.ports import LOOPBACK
from local_stack.process import Process

USER = "guest"
PASSWORD = "guest"  # noqa: S105  RabbitMQ's own default, which it accepts from the loopback interface alone

#: A delayed message that its next queue refuses is tried again after this many milliseconds: see
#: deploy/rabbitmq/advanced.config, of which this is all.
_ADVANCED = "[{rabbit, [{dead_letter_worker_publisher_confirm_timeout, 5000}]}]."

_PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"  # AMQP 0-9-1, 4.2.2; the server's Connection.Start follows
_METHOD_FRAME = b"\x01"
_CTL_SECONDS = 30


class RabbitMQ(Node):
    """RabbitMQ 3.10 or later from the system's package, with a name, ports, Erlang cookie and epmd of its own.

    Args:
        data: folder for all files.
        port: for AMQP; a free one by default; the same at each start.
        management: also serve the management API and pages, on a port of their own; makes the start a second longer.
        management_port: a free one by default.
        config: further lines of ``rabbitmq.conf``.
        plugins: further plugins to enable.
        detached: outlive this process.
        cookie: the Erlang cookie; the nodes of a cluster share one. Erlang draws one by default.
        epmd_port: where an epmd listens that the nodes of a cluster share, and that is not this node's to start and
            end. By default the node has one of its own.
    """

    title = "RabbitMQ"
    stop_seconds = 30.0  # it writes its queues to disk

    def __init__(
        self,
        data: Path,
        port: int | None = None,
        *,
        management: bool = False,
        management_port: int | None = None,
        config: Sequence[str] = (),
        plugins: Sequence[str] = (),
        detached: bool = False,
        cookie: str = "",
        epmd_port: int | None = None,
    ) -> None:
        ports = {"AMQP": port, "management": management_port, "Erlang distribution": None}
        super().__init__(data, ports if epmd_port else {**ports, "epmd": None}, detached=detached)
        self._cookie = cookie
        self._shared_epmd_port = epmd_port
        self.management = management
        self.config = tuple(config)
        self.plugins = tuple(plugins)

    @property
    def url(self) -> str:
        """Address of the default virtual host, for the default user."""
        return self.url_of("/")

    def url_of(self, vhost: str) -> str:
        """Return the address of a virtual host."""
        return f"amqp://{USER}:{PASSWORD}@{LOOPBACK}:{self.ports['AMQP']}/{quote(vhost, safe='')}"

    @property
    def management_url(self) -> str:
        """Address of the management pages; nothing listens there unless ``management`` was asked for."""
        return f"http://{USER}:{PASSWORD}@{LOOPBACK}:{self.ports['management']}"

    @property
    def nodename(self) -> str:
        """The Erlang name, unique on this machine as long as the node holds its port."""
        return f"local-stack-{self.ports['AMQP']}@localhost"

    def _spawn(self) -> tuple[Process, ...]:
        script = servers.find("rabbitmq")
        if script is None:
            raise packages.missing(["rabbitmq"])
        self._write_files()
        environment = self._environment()
        names: tuple[Process, ...] = ()
        if self._shared_epmd_port is None:
            names = (start_epmd(self.ports["epmd"], self.log, detached=self.detached),)
        server = Process.spawn(
            [str(script)],
            log=self.log,
            environment=environment,
            folder=self.data,
            detached=self.detached,
        )
        return server, *names

    def answers(self) -> bool:
        """Tell whether the AMQP handshake begins, and the management API answers if there is one."""
        try:
            with socket.create_connection((LOOPBACK, self.ports["AMQP"]), timeout=2) as connection:
                connection.sendall(_PROTOCOL_HEADER)
                if connection.recv(1) != _METHOD_FRAME:
                    return False
            if self.management:
                self.call("GET", "/api/overview")
        except (OSError, http.client.HTTPException, NodeFailed):
            return False
        return True

    def kill(self) -> None:
        """End the node as a power cut would (SIGKILL).

        RabbitMQ 3.10 writes the name of a new quorum queue to disk half a second late: one that is killed within that
        time after the first declaration never elects a leader again. Let a queue be a second old before you kill its
        node, unless that fault is what you test.
        """
        super().kill()

    def create_vhost(self, name: str) -> str:
        """Create a virtual host that the default user may do anything in, and return its address."""
        if self.management:
            self.call("PUT", f"/api/vhosts/{quote(name, safe='')}")
            everything = {"configure": ".*", "write": ".*", "read": ".*"}
            self.call("PUT", f"/api/permissions/{quote(name, safe='')}/{USER}", everything)
        else:
            self.ctl("add_vhost", name)
            self.ctl("set_permissions", "-p", name, USER, ".*", ".*", ".*")
        return self.url_of(name)

    def delete_vhost(self, name: str) -> None:
        """Delete a virtual host with all that is in it; its connections are closed."""
        if self.management:
            self.call("DELETE", f"/api/vhosts/{quote(name, safe='')}")
        else:
            self.ctl("delete_vhost", name)

    def call(self, method: str, path: str, body: object = None) -> object:
        """Ask the management API, and return the decoded answer (None when it has no body).

        Raises:
            NodeFailed: the answer is an error.
            OSError: nothing answers.
        """
        connection = http.client.HTTPConnection(LOOPBACK, self.ports["management"], timeout=30)
        try:
            credentials = b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            headers = {"Authorization": f"Basic {credentials}", "Content-Type": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        if response.status >= http.client.BAD_REQUEST:
            raise NodeFailed(f"RabbitMQ refused {method} {path}: {response.status} {text.decode(errors='replace')}")
        answer: object = json.loads(text) if text else None
        return answer

    def ctl(self, *arguments: str) -> str:
        """Run ``rabbitmqctl`` against this node, and return what it printed.

        Raises:
            NodeFailed: the command failed.
        """
        script = servers.find("rabbitmq")
        if script is None:
            raise packages.missing(["rabbitmq"])
        done = subprocess.run(  # noqa: S603  the system's own tool
            [str(script.with_name("rabbitmqctl")), "-q", *arguments],
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=_CTL_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            raise NodeFailed(f"rabbitmqctl {' '.join(arguments)} failed: {(done.stderr or done.stdout).strip()}")
        return done.stdout

    def _write_files(self) -> None:
        (self.data / "conf.d").mkdir(exist_ok=True)
        cookie = self.data / ".erlang.cookie"
        if self._cookie and not cookie.exists():
            cookie.touch(mode=0o600)
            cookie.write_text(self._cookie)
        plugins = [*(["rabbitmq_management"] if self.management else []), *self.plugins]
        (self.data / "enabled_plugins").write_text(f"[{','.join(plugins)}].\n")
        (self.data / "advanced.config").write_text(_ADVANCED + "\n")
        http = [f"management.tcp.ip = {LOOPBACK}", f"management.tcp.port = {self.ports['management']}"]
        lines = [
            f"listeners.tcp.1 = {LOOPBACK}:{self.ports['AMQP']}",
            "log.console = false",  # it would be in colour
            f"log.dir = {self.log.parent}",
            f"log.file = {self.log.name}",
            *(http if self.management else []),
            *self.config,
        ]
        (self.data / "rabbitmq.conf").write_text("\n".join(lines) + "\n")

    def _environment(self) -> dict[str, str]:
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))}
        return ours | {
            "PATH": servers.path(),  # its scripts look for Erlang there
            "HOME": str(self.data),  # where Erlang keeps its cookie
            "ERL_EPMD_PORT": str(self._shared_epmd_port or self.ports["epmd"]),
            "ERL_EPMD_ADDRESS": LOOPBACK,
            "ERL_CRASH_DUMP_SECONDS": "0",  # no dump: the log holds the reason
            "RABBITMQ_NODENAME": self.nodename,
            "RABBITMQ_DIST_PORT": str(self.ports["Erlang distribution"]),
            "RABBITMQ_MNESIA_BASE": str(self.data / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.data),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(self.data / "generated"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.data / "enabled_plugins"),
            "RABBITMQ_CONFIG_FILE": str(self.data / "rabbitmq.conf"),
            "RABBITMQ_CONFIG_FILES": str(self.data / "conf.d"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.data / "advanced.config"),
            "RABBITMQ_CONF_ENV_FILE": str(self.data / "rabbitmq-env.conf"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 -kernel inet_dist_use_interface {127,0,0,1}",
            # The script then becomes the Erlang machine instead of its parent, so that signals reach the right one.
            "RUNNING_UNDER_SYSTEMD": "true",
        }


def start_epmd(port: int, log: Path, *, detached: bool = False) -> Process:
    """Start the name server of Erlang's nodes in the foreground: the one that Erlang starts by itself outlives them.

    Raises:
        MissingPackages: it is not installed.
    """
    epmd = shutil.which("epmd", path=servers.path())
    if epmd is None:
        raise packages.missing(["rabbitmq"])
    return Process.spawn([epmd, "-port", str(port), "-address", LOOPBACK], log=log, detached=detached)
