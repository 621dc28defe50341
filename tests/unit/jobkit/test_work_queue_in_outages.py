"""Dramatiq's work queue with a dispatcher in it."""

import threading
import time
from datetime import timedelta
from queue import Empty
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from dramatiq import Message
from dramatiq.broker import MessageProxy

from jobkit.effects import Claim
from jobkit.execution import Execution, received
from jobkit.run.dispatcher import RUNS, Dispatcher
from jobkit.run.seams import Seams
from jobkit.run.work_queue import WorkQueue
from jobkit.store.memory import MemoryStore


class Item(SimpleNamespace):
    """What Dramatiq puts in."""

    def __lt__(self, _other: object) -> bool:
        return False


STOPPING, TTL = threading.Event(), timedelta(seconds=15)


def work_queue(*, redelivered: bool = False, stopping: threading.Event = STOPPING) -> WorkQueue:
    def begin(message: MessageProxy) -> Execution:
        execution = received(message, "process:1")
        execution.redelivered = redelivered
        return execution

    def request(execution: Execution, ahead: bool) -> Claim:
        return Claim(execution.job, execution.owner, sent_at=1, ahead=ahead)

    dispatcher = Dispatcher(lambda _job: False, lambda: True, lambda: "process:2", time.monotonic)
    return WorkQueue(dispatcher, Seams(MemoryStore(), TTL), begin, request, stopping)


def item(actor: str) -> Item:
    message: Message[Any] = Message("work", actor, (), {}, {}, "id", 1)
    return Item(message=MessageProxy(message))


def test_a_worker_that_stops_in_a_host_leaves_no_thread_behind() -> None:
    stopping, work = threading.Event(), item("work")
    queue = work_queue(redelivered=True, stopping=stopping)
    queue.put(work)
    assert queue.get(timeout=5) is work, "it was claimed, and something had to see that it finds a thread in time"
    assert isinstance(queue._thread, threading.Thread)
    stopping.set()
    with pytest.raises(Empty):
        queue.get_nowait()
    queue._thread.join(5)
    assert not queue._thread.is_alive()


@pytest.mark.parametrize(("beside", "looks"), [("long", 0), ("instant", 1)])
def test_an_instant_job_waits_for_no_thread_but_one_that_is_back_in_no_time(
    beside: str, looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, soon = work_queue(), Mock()
    monkeypatch.setattr(queue, "_look_soon", soon)
    for _ in range(RUNS):
        queue.note_run("instant", "work", 0.0001)
        queue.note_run("long", "work", 600.0)
    queue.put(item(beside))
    queue.get(timeout=5)
    queue.put(item("instant"))
    assert soon.call_count == looks, "a thread that is free would be woken only at the next look"
