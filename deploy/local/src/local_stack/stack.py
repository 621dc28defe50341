"""All backing services together, which stay up in the background until they are taken down."""

import fcntl
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from local_stack.backing import USED, Backing
from local_stack.errors import LocalStackError
from local_stack.mailcatcher import MailCatcher
from local_stack.node import Node
from local_stack.postgres import Postgres
from local_stack.process import POLL_SECONDS, Process
from local_stack.rabbitmq import RabbitMQ
from local_stack.redis import Redis

LOCK_SECONDS = 180  #: Longer than the slowest start: a second `make up` waits for the first.


class Stack:
    """Private nodes of RabbitMQ, Redis, PostgreSQL and a mail catcher in one folder.

    The folder remembers their processes and ports: any later `Stack` on it finds them again, and after `down` and `up`
    addresses and data are what they were.

    Args:
        folder: holds everything; made if it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.rabbitmq = RabbitMQ(self.folder / "rabbitmq", management=True, detached=True)
        self.redis = Redis(self.folder / "redis", detached=True)
        self.postgres = Postgres(self.folder / "postgres", detached=True)
        self.mail = MailCatcher(self.folder / "mail", detached=True)
        for node in self.nodes:
            self._recall(node)

    @property
    def nodes(self) -> Sequence[Node]:
        """All nodes, the slowest to start first."""
        return (self.rabbitmq, self.postgres, self.mail, self.redis)

    def environment(self) -> dict[str, str]:
        """Return the variables by which services reach the nodes."""
        return {
            USED: Backing.NODES.value,
            "JOBKIT_BROKER_URL": self.rabbitmq.url,
            "JOBKIT_STORE_URL": self.redis.url,
            "EMAIL_SMTP_URL": self.mail.url,
            "LOCAL_POSTGRES_URL": self.postgres.url,
            "LOCAL_MANAGEMENT_URL": self.rabbitmq.management_url,
            "LOCAL_MAIL_URL": self.mail.folder.as_uri(),
        }

    def up(self) -> None:
        """Start what does not run, and wait until everything answers. Nothing happens if all of it does.

        Raises:
            LocalStackError: a node could not be started; the others stay up.
        """
        with self._alone():
            for node in self.nodes:
                self._recall(node)  # who held the lock before us may have started it
                if not node.running:
                    node.launch()
                    self._remember(node)
            for node in self.nodes:
                node.wait()

    def down(self) -> list[str]:
        """Stop what runs, and return its titles; data and ports stay for the next `up`."""
        stopped = []
        with self._alone():
            for node in self.nodes:
                self._recall(node)
                if node.running:
                    stopped.append(node.title)
                node.stop()
                self._remember(node)
        return stopped

    def _state(self, node: Node) -> Path:
        return node.data.with_name(f"{node.data.name}.json")

    def _remember(self, node: Node) -> None:
        processes = [[process.pid, process.started] for process in node.processes]
        unfinished = self._state(node).with_suffix(".part")
        unfinished.write_text(json.dumps({"ports": node.ports, "processes": processes}))
        unfinished.replace(self._state(node))

    def _recall(self, node: Node) -> None:
        if self._state(node).exists():
            state = json.loads(self._state(node).read_text())
            node.ports = state["ports"]
            node.processes = tuple(Process(pid, started) for pid, started in state["processes"])

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + LOCK_SECONDS
        with (self.folder / "lock").open("w") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise LocalStackError(
                            f"another process has been starting or stopping the nodes in {self.folder} for "
                            f"{LOCK_SECONDS} s: end it and try again"
                        ) from None
                    time.sleep(POLL_SECONDS)
            yield
