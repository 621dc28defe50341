"""Virtual hosts of the tests, deleted in a way that RabbitMQ 3.10 survives."""

import time
import uuid
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from local_stack.rabbitmq import RabbitMQ

#: Seconds for which a virtual host is left alone after its test, and after a start of the node.
_SETTLED: Final = 15.0


class Vhosts:
    """Makes a virtual host for each test, and deletes it a while later.

    A quorum queue that dead-letters at least once has a process for that, which its leader starts when it is elected:
    after the declaration, and after each start of the node. If the queue is deleted while that process asks it for its
    messages, the process dies, is started again, finds no queue, and dies again. RabbitMQ 3.10 to 4 have one supervisor
    for these processes on a node. In 3.10 it permits one death in 5 s, and is not started again: every new queue that
    dead-letters at least once is answered with 541 INTERNAL_ERROR from then on, until the node starts again. Deleting a
    virtual host right after a start of the node does it nearly each time; 15 s later it was never seen.
    (rabbitmq-server's issue 16652; 16672 is to mend it.)

    Args:
        node: The node. A test may kill it and leave it dead.
    """

    def __init__(self, node: RabbitMQ) -> None:
        self._node = node
        self._settled_at = 0.0
        self._used: deque[tuple[str, float]] = deque()  # and until when they are left alone

    @contextmanager
    def one(self) -> Iterator[str]:
        """The address of a virtual host that nobody else uses, on a node that runs."""
        process = self._node.processes[:1]
        self._node.start()
        if self._node.processes[:1] != process:
            self._settle()
        self._delete_used()
        name = f"test-{uuid.uuid4().hex[:12]}"
        process = self._node.processes[:1]
        yield self._node.create_vhost(name)
        if self._node.processes[:1] != process:  # the test has started it again
            self._settle()
        self._used.append((name, time.monotonic() + _SETTLED))

    def _settle(self) -> None:
        self._settled_at = time.monotonic() + _SETTLED

    def _delete_used(self) -> None:
        now = time.monotonic()
        while self._used and max(self._used[0][1], self._settled_at) < now:
            # With all its queues this may take longer than the call waits. The node goes on with it, and no test waits.
            with suppress(TimeoutError):
                self._node.delete_vhost(self._used.popleft()[0])
