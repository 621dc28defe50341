"""The loop without a thread of its own."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from jobkit.broker.loop import SteppedLoop


@pytest.fixture
def loop() -> Iterator[SteppedLoop]:
    built = SteppedLoop()
    yield built
    built.close()


def step(loop: SteppedLoop, timeout: float = 0.0) -> None:
    loop.dispatch(loop.wait(timeout))


def test_timers_are_called_in_the_order_in_which_they_are_due(loop: SteppedLoop) -> None:
    called: list[str] = []
    loop.call_later(0.02, lambda: called.append("second"))
    loop.call_later(0, lambda: called.append("first"))
    loop.remove_timeout(loop.call_later(0.01, lambda: called.append("cancelled")))
    step(loop)
    assert called == ["first"]
    deadline = time.monotonic() + 5
    while len(called) < 2 and time.monotonic() < deadline:
        step(loop, 5)
    assert called == ["first", "second"]


def test_another_thread_ends_the_wait_and_two_wake_ups_are_one(loop: SteppedLoop) -> None:
    started = time.monotonic()
    for _ in range(2):
        threading.Timer(0.05, loop.wake).start()
    ready = loop.wait(5)
    time.sleep(0.1)  # the other one comes, too, before this one is dealt with
    loop.dispatch(ready)
    assert time.monotonic() - started < 4
    assert len(ready) == 1
    assert loop.wait(0) == []


def test_a_callback_is_called_once_in_the_next_step(loop: SteppedLoop) -> None:
    called: list[int] = []
    loop.add_callback(lambda: loop.add_callback(lambda: called.append(2)))
    loop.add_callback(lambda: called.append(1))
    step(loop, 5)
    assert called == [1], "what a callback asks for is called in the step after it, or sockets would starve"
    step(loop, 5)
    step(loop)
    assert called == [1, 2]


def test_the_end_of_a_connection_is_told_to_whoever_reads(loop: SteppedLoop) -> None:
    ours, theirs = socket.socketpair()
    told: list[int] = []
    loop.add_handler(ours.fileno(), lambda _fd, events: told.append(events), loop.READ)
    theirs.close()
    step(loop, 5)
    assert told == [loop.READ]
    loop.remove_handler(ours.fileno())
    step(loop)
    assert told == [loop.READ]
    ours.close()


def test_it_waits_for_room_to_write_only_while_asked_to(loop: SteppedLoop) -> None:
    ours, theirs = socket.socketpair()
    told: list[int] = []
    loop.add_handler(ours.fileno(), lambda _fd, events: told.append(events), loop.READ | loop.WRITE | loop.ERROR)
    step(loop, 5)
    loop.update_handler(ours.fileno(), loop.READ)
    step(loop)
    assert told == [loop.WRITE]
    loop.remove_handler(ours.fileno())
    ours.close()
    theirs.close()
