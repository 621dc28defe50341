"""The stress table: a job takes and frees locks in a loop, is interrupted 200 times, and leaves none behind.

On Python 3.11 only plain locks are safe: an asynchronous exception can land inside the standard library's own Python
code, between the taking of a lock and the block that frees it (``docs/explanation/guarantees.md``).
"""

import contextlib
import io
import logging
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pytest
from dramatiq.middleware import Shutdown

from jobkit.interrupts import Interrupts

INTERRUPTS = 200

Loop = Callable[[], NoReturn]
Case = tuple[Loop, Any]  # Any: what has acquire() and release(); the standard library has no common type for it


def plain_lock() -> Case:
    lock = threading.Lock()

    def loop() -> NoReturn:
        while True:
            with lock:
                pass

    return loop, lock


def reentrant_lock() -> Case:
    lock = threading.RLock()

    def loop() -> NoReturn:
        while True:
            with lock:
                pass

    return loop, lock


def condition() -> Case:
    guarded = threading.Condition()

    def loop() -> NoReturn:
        while True:
            with guarded:
                guarded.notify_all()

    return loop, guarded


def event() -> Case:
    flag = threading.Event()

    def loop() -> NoReturn:
        while True:
            flag.set()
            flag.is_set()
            flag.clear()

    return loop, vars(flag)["_cond"]


def semaphore() -> Case:
    one = threading.Semaphore(1)

    def loop() -> NoReturn:
        while True:
            with one:
                pass

    return loop, one


def bounded_queue() -> Case:
    line: queue.Queue[int] = queue.Queue(1)

    def loop() -> NoReturn:
        while True:
            line.put(1)
            line.get()
            line.task_done()

    return loop, line.mutex


def acquire_then_try() -> Case:
    lock = threading.Lock()

    def loop() -> NoReturn:
        while True:
            lock.acquire()
            try:
                pass
            finally:
                lock.release()

    return loop, lock


def log_handler() -> Case:
    handler = logging.StreamHandler(io.StringIO())
    logger = logging.Logger("interrupted")  # in no hierarchy: nothing else may see these lines
    logger.addHandler(handler)

    def loop() -> NoReturn:
        while True:
            logger.warning("busy")

    return loop, handler.lock


class Pool:
    """Guards itself in Python code, as a job's own helper does."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __enter__(self) -> None:
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.give_back()

    def give_back(self) -> None:
        self.lock.release()


def own_guard() -> Case:
    pool = Pool()

    def loop() -> NoReturn:
        while True:
            with pool:
                time.monotonic()

    return loop, pool.lock


def own_function_that_frees() -> Case:
    pool = Pool()

    def loop() -> NoReturn:
        while True:
            pool.lock.acquire()
            try:
                time.monotonic()
            finally:
                pool.give_back()

    return loop, pool.lock


def generator_guard() -> Case:
    lock = threading.Lock()

    @contextlib.contextmanager
    def held() -> Iterator[None]:
        lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def loop() -> NoReturn:
        while True:
            with held():
                pass

    return loop, lock


def exit_stack() -> Case:
    lock = threading.Lock()

    def loop() -> NoReturn:
        while True:
            with contextlib.ExitStack() as stack:
                stack.enter_context(lock)

    return loop, lock


SAFE_EVERYWHERE = [plain_lock, reentrant_lock]
SAFE_WITH_MONITORING = [
    condition,
    event,
    semaphore,
    bounded_queue,
    acquire_then_try,
    log_handler,
    own_guard,
    own_function_that_frees,
    generator_guard,
    exit_stack,
]


def interrupted(interrupts: Interrupts, loop: Loop) -> bool:
    """Run ``loop`` in a thread and interrupt it; returns whether it ended with the interrupt."""
    outcome: list[str] = []

    def work() -> None:
        try:
            interrupts.run(loop, limit=60)
        except Shutdown:
            outcome.append("interrupted")

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    deadline = time.monotonic() + 5
    while not interrupts.interrupt(thread.ident or 0, Shutdown) and time.monotonic() < deadline:
        time.sleep(0.0001)
    thread.join(5)
    return outcome == ["interrupted"]


@pytest.mark.parametrize("case", SAFE_EVERYWHERE + (SAFE_WITH_MONITORING if sys.version_info >= (3, 12) else []))
def test_an_interrupted_job_leaves_no_lock_behind(case: Callable[[], Case]) -> None:
    loop, lock = case()
    interrupts = Interrupts()
    for number in range(INTERRUPTS):
        assert interrupted(interrupts, loop), f"interrupt {number} did not land"
        assert lock.acquire(blocking=False), f"interrupt {number} left the lock taken"
        lock.release()
