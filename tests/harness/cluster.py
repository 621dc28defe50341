"""Three RabbitMQ nodes on the loopback interface that make one broker."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from local_stack.errors import NodeFailed
from local_stack.ports import free_port
from local_stack.process import Process
from local_stack.rabbitmq import RabbitMQ, start_epmd

SIZE = 3
#: Seconds for the nodes to find each other, and for a queue to have a leader again. Seconds, on a busy machine more.
LIMIT = 60.0
LOOK = 0.1
BOOTED = b"Server startup complete"  #: The last line that RabbitMQ logs while it starts.


class Cluster:
    """A cluster whose nodes a test may kill, one at a time, and start again.

    Start it from a thread that lives as long as it should: the kernel ends its processes with that thread.

    Args:
        data: folder for all files.
        config: further lines of every node's ``rabbitmq.conf``.
    """

    def __init__(self, data: Path, config: Sequence[str] = ()) -> None:
        self._data = data
        self._epmd_port = free_port()
        self._epmd: Process | None = None
        self.nodes = [
            RabbitMQ(data / f"node-{n}", management=True, cookie="CLUSTER", epmd_port=self._epmd_port)
            for n in range(SIZE)
        ]
        members = [f"cluster_formation.classic_config.nodes.{n} = {m.nodename}" for n, m in enumerate(self.nodes, 1)]
        for node in self.nodes:
            node.config = (
                "cluster_formation.peer_discovery_backend = classic_config",
                *members,
                "cluster_partition_handling = pause_minority",  # as in production
                *config,
            )

    def start(self) -> None:
        """Start the nodes that do not run, side by side, and wait until each sees all."""
        self._data.mkdir(parents=True, exist_ok=True)
        if self._epmd is None or not self._epmd.alive:
            self._epmd = start_epmd(self._epmd_port, self._data / "epmd.log")
        launched = {node: len(_log(node)) for node in self.nodes if not node.running}
        for node in launched:
            node.launch()
        for node in launched:
            node.wait()
        # A node that answers has not quite booted yet, and would never hear of a virtual host that is made just then.
        self._until(
            lambda: all(BOOTED in _log(node)[size:] for node, size in launched.items()), "a node has not booted"
        )
        self._until(lambda: all(self._running_at(node) == SIZE for node in self.nodes), "the nodes have not met")

    def kill(self) -> None:
        """End all of it: nobody reads its data again."""
        for node in self.nodes:
            node.kill()
        if self._epmd is not None:
            self._epmd.kill()

    @property
    def alive(self) -> RabbitMQ:
        """One of the nodes that run."""
        return next(node for node in self.nodes if node.running)

    def call(self, method: str, path: str, body: object = None) -> object:
        """Ask the management API of a node that runs."""
        return self.alive.call(method, path, body)

    def create_vhost(self, name: str) -> str:
        """Create a virtual host on all nodes; return the address of each, separated by commas."""
        self.alive.create_vhost(name)
        return ",".join(node.url_of(name) for node in self.nodes)

    def delete_vhost(self, name: str) -> None:
        """Delete a virtual host with all that is in it."""
        self.alive.delete_vhost(name)

    def leader_of(self, vhost: str, queue: str) -> RabbitMQ:
        """The node that leads a quorum queue; waits for an election that goes on."""
        path = f"/api/queues/{quote(vhost, safe='')}/{quote(queue, safe='')}"
        found: list[RabbitMQ] = []

        def find() -> bool:
            about = self.call("GET", path)
            assert isinstance(about, dict)
            name = about.get("leader")
            found[:] = [node for node in self.nodes if node.nodename == name and node.running]
            return bool(found)

        self._until(find, f"{queue} has had no leader")
        return found[0]

    def members(self, vhost: str) -> dict[str, int]:
        """How many nodes hold a copy of each queue."""
        queues = self.call("GET", f"/api/queues/{quote(vhost)}")
        assert isinstance(queues, list)
        return {each["name"]: len(each.get("members", [])) for each in queues}

    def _running_at(self, node: RabbitMQ) -> int:
        nodes = node.call("GET", "/api/nodes")
        assert isinstance(nodes, list)
        return sum(bool(each["running"]) for each in nodes)

    def _until(self, condition: Callable[[], bool], trouble: str) -> None:
        deadline = time.monotonic() + LIMIT
        while not self._holds(condition):
            if time.monotonic() > deadline:
                raise NodeFailed(f"{trouble} within {LIMIT:g} s")
            time.sleep(LOOK)

    @staticmethod
    def _holds(condition: Callable[[], bool]) -> bool:
        try:
            return condition()
        except (OSError, NodeFailed):  # the management API comes up after its node, and may miss one that has died
            return False

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


def _log(node: RabbitMQ) -> bytes:
    return node.log.read_bytes() if node.log.exists() else b""
