"""Dramatiq's work queue with a dispatcher in it."""

import threading
import time
from datetime import timedelta
from queue import Empty
from types import SimpleNamespace
from typing import Any

import pytest
from dramatiq import Message
from dramatiq.broker import MessageProxy

from jobkit.effects import Claim
from jobkit.execution import Execution, received
from jobkit.run.dispatcher import Dispatcher
from jobkit.run.seams import Seams
from jobkit.run.work_queue import WorkQueue
from jobkit.store.memory import MemoryStore


class Item(SimpleNamespace):
    """What Dramatiq puts in."""

    def __lt__(self, _other: object) -> bool:
        return False


def begin(message: MessageProxy) -> Execution:
    execution = received(message, "process:1")
    execution.redelivered = True
    return execution


def test_a_worker_that_stops_in_a_host_leaves_no_thread_behind() -> None:
    stopping, ttl = threading.Event(), timedelta(seconds=15)
    dispatcher = Dispatcher(lambda _job: False, lambda: True, lambda: "process:2", time.monotonic)
    queue = WorkQueue(
        dispatcher,
        Seams(MemoryStore(), ttl),
        begin,
        lambda execution: Claim(execution.job, execution.owner, sent_at=1),
        stopping,
    )
    message: Message[Any] = Message("work", "work", (), {}, {}, "id", 1)
    item = Item(message=MessageProxy(message))
    queue.put(item)
    assert queue.get(timeout=5) is item, "it was claimed, and something had to see that it finds a thread in time"
    assert isinstance(queue._thread, threading.Thread)
    stopping.set()
    with pytest.raises(Empty):
        queue.get_nowait()
    queue._thread.join(5)
    assert not queue._thread.is_alive()
