"""The queue between Dramatiq's consumers and its worker threads: each delivery is handed out once, and none waits."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import Empty
from types import SimpleNamespace
from typing import Any

import pytest
from claims_ahead import Desk
from in_process import until

from jobkit.effects import Claims, Records
from jobkit.errors import StoreUnavailable
from jobkit.execution import Execution
from jobkit.run.dispatcher import DEATH_PAUSE, LONGEST_AHEAD, RUNS, Delivery
from jobkit.run.work_queue import WorkQueue

LONG = 20.0  # seconds: nobody waits so long who is woken


@dataclass(order=True)
class Item:
    """As Dramatiq's."""

    priority: int
    message: Any = field(compare=False)


class Counter:
    """A work queue over a desk."""

    def __init__(self) -> None:
        self.desk = Desk()
        self.stopping = threading.Event()
        self.queue = WorkQueue(self.desk.dispatcher, self.desk.seams, self._begin, self.desk.request, self.stopping)

    def _begin(self, message: Any) -> Execution:
        return self.desk.delivery(message.name, redelivered=message.redelivered).execution

    def put(self, *names: str, redelivered: bool = False, more_follow: bool = False) -> None:
        """Take in deliveries of these jobs."""
        for name in names:
            message = SimpleNamespace(name=name, redelivered=redelivered, more_follow=more_follow)
            self.queue.put(Item(0, message))

    def get(self, timeout: float = LONG) -> str:
        """Return the job that runs next."""
        name: str = self.queue.get(timeout).message.name
        return name

    def left(self) -> list[str]:
        """Return all that has not begun, as a worker does that stops."""
        found = []
        try:
            while True:
                found.append(self.queue.get_nowait().message.name)
        except Empty:
            return found


@pytest.fixture
def counter() -> Counter:
    return Counter()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def answers(*waiting: Future[str]) -> list[str]:
    began = time.monotonic()
    told = [one.result(LONG) for one in waiting]
    assert time.monotonic() - began < LONG / 2, "a thread was not woken, but has come by itself"
    return told


# ---- threads that wait


def test_a_thread_that_waits_gets_what_comes(counter: Counter, threads: ThreadPoolExecutor) -> None:
    waiting = threads.submit(counter.get)
    counter.put("a")
    assert answers(waiting) == ["a"]


def test_a_thread_that_gets_nothing_goes_on_in_time(counter: Counter) -> None:
    with pytest.raises(Empty):
        counter.queue.get(0.01)


def test_every_thread_that_waits_gets_one_of_what_is_claimed_together(
    counter: Counter, threads: ThreadPoolExecutor
) -> None:
    names = [f"job-{number}" for number in range(8)]
    counter.put(*names)
    waiting = [threads.submit(counter.get) for _ in names]
    assert sorted(answers(*waiting)) == names


def test_one_thread_wakes_the_next_as_long_as_there_is_something(counter: Counter, threads: ThreadPoolExecutor) -> None:
    waiting = [threads.submit(counter.get) for _ in range(4)]
    until(lambda: len(counter.queue._idle) == 4, "all wait")
    dispatcher = counter.desk.dispatcher
    for number in range(4):  # of which no thread is told, and which are not claimed together
        execution = counter.desk.delivery(f"{number}", actor="other").execution
        dispatcher.put(Delivery(Item(0, SimpleNamespace(name=f"{number}")), execution))
    counter.queue._wake()
    assert sorted(answers(*waiting)) == ["0", "1", "2", "3"]


def test_a_thread_is_woken_once_for_messages_that_come_together(counter: Counter, threads: ThreadPoolExecutor) -> None:
    waiting = threads.submit(counter.get)
    until(lambda: len(counter.queue._idle) == 1, "it waits")
    bell = counter.queue._idle[0]
    counter.put("a", "b", more_follow=True)
    assert counter.queue._idle == [bell], "not yet"
    counter.put("c")
    assert answers(waiting) == ["a"]
    (call,) = counter.desk.calls
    assert isinstance(call, Claims)
    assert len(call.claims) == 3


def test_messages_whose_last_one_never_comes_wait_for_the_next_look(
    counter: Counter, threads: ThreadPoolExecutor
) -> None:
    waiting = threads.submit(counter.get)
    until(lambda: len(counter.queue._idle) == 1, "it waits")
    counter.put("a", "b", more_follow=True)
    assert answers(waiting) == ["a"]


def test_the_thread_that_came_last_is_woken_first(counter: Counter, threads: ThreadPoolExecutor) -> None:
    first = threads.submit(counter.get)
    until(lambda: len(counter.queue._idle) == 1, "the first waits")
    second = threads.submit(counter.get)
    until(lambda: len(counter.queue._idle) == 2, "both wait")
    counter.put("a")
    assert answers(second) == ["a"]
    counter.put("b")
    assert answers(first) == ["b"]


def test_others_go_on_while_a_thread_with_an_instant_job_records_it(
    counter: Counter, threads: ThreadPoolExecutor
) -> None:
    for _ in range(RUNS):
        counter.queue.note_run("short", "work", 0.0)
    counter.put("a", "b")
    took, recorded = threading.Event(), threading.Event()

    def work() -> str:
        name = counter.get()
        took.set()
        assert recorded.wait(LONG)
        counter.queue.wait_elsewhere()
        return name

    busy = threads.submit(work)
    assert took.wait(LONG)
    idle = threads.submit(counter.get)
    recorded.set()
    assert sorted(answers(busy, idle)) == ["a", "b"]


def test_instant_jobs_wait_once_for_a_thread_that_was_to_be_back_soon_and_is_not(
    counter: Counter, threads: ThreadPoolExecutor
) -> None:
    for _ in range(RUNS):
        counter.queue.note_run("short", "work", 0.0)
    counter.put("a")
    assert counter.get() == "a", "which turns out to be long"

    def get_and_come_back() -> str:
        name = counter.get()
        with pytest.raises(Empty):
            counter.get(0.01)
        return name

    waiting = threads.submit(get_and_come_back)
    until(lambda: len(counter.queue._idle) == 1, "a thread waits")
    counter.put("b")
    assert answers(waiting) == ["b"], "with the next look"
    assert not counter.queue._back_soon, "others are woken at once from now on"


def test_a_thread_is_woken_when_the_job_of_a_dead_worker_is_free(counter: Counter, threads: ThreadPoolExecutor) -> None:
    held = counter.desk.lease("a")
    counter.put("a", redelivered=True)
    waiting = threads.submit(counter.get)
    until(lambda: counter.desk.dispatcher._held, "it is held")
    counter.desk.release(held)
    counter.desk.now += DEATH_PAUSE
    assert answers(waiting) == ["a"]


def test_what_finds_no_thread_in_time_is_released_by_itself_and_runs_later(counter: Counter) -> None:
    counter.put("a", "b", "c")
    assert counter.get() == "a"
    counter.desk.now += LONGEST_AHEAD
    until(lambda: isinstance(counter.desk.calls[-1], Records), "the others are released")
    until(lambda: not counter.desk.dispatcher._ready, "they wait again")
    assert (counter.desk.lease("b").attempt, counter.desk.lease("c").attempt) == (1, 1)
    assert sorted([counter.get(), counter.get()]) == ["b", "c"]


def test_looking_after_what_waits_outlives_a_mistake(
    counter: Counter, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter.put("a", "b")
    assert counter.get() == "a"
    dispatcher = counter.desk.dispatcher
    overdue, tries = dispatcher.overdue, iter([RuntimeError("a mistake")])

    def fails_once() -> Any:
        for error in tries:
            raise error
        return overdue()

    monkeypatch.setattr(dispatcher, "overdue", fails_once)
    counter.desk.now += LONGEST_AHEAD
    until(lambda: not dispatcher._ready, "it is released all the same")
    assert "could not be looked after" in caplog.text


# ---- a process that may start no further thread


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """As long as it is set, the operating system refuses the thread that looks after claims."""
    event, start = threading.Event(), threading.Thread.start
    event.set()

    def started(thread: threading.Thread) -> None:
        if thread.name == "jobkit-claims" and event.is_set():
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", started)
    return event


@pytest.mark.usefixtures("refused")
def test_worker_threads_look_after_claims_where_no_thread_can_be_started(
    counter: Counter, caplog: pytest.LogCaptureFixture
) -> None:
    held = counter.desk.lease("a")
    counter.put("a", redelivered=True)
    for _ in range(3):
        with pytest.raises(Empty):
            counter.get(0.01)
    counter.desk.release(held)
    counter.desk.now += DEATH_PAUSE
    with pytest.raises(Empty):
        counter.get(0.01)
    assert counter.get() == "a"
    assert caplog.text.count("can't start new thread") == 1


@pytest.mark.usefixtures("refused")
def test_what_was_claimed_too_long_ago_is_released_where_no_thread_can_be_started(counter: Counter) -> None:
    counter.put("a", "b", "c")
    assert counter.get() == "a"
    counter.desk.now += 2  # and all threads were busy meanwhile
    with pytest.raises(Empty):
        counter.get(0.01)
    assert (counter.desk.lease("b").attempt, counter.desk.lease("c").attempt) == (1, 1)
    assert sorted([counter.get(), counter.get()]) == ["b", "c"]


@pytest.mark.usefixtures("refused")
def test_a_thread_that_waits_is_woken_where_no_thread_can_be_started(
    counter: Counter, threads: ThreadPoolExecutor
) -> None:
    for _ in range(RUNS):
        counter.queue.note_run("short", "work", 0.0001)
    counter.put("a")
    assert counter.get() == "a", "a job that waits for nothing, so its thread is back soon"
    waiting = threads.submit(counter.get)
    until(lambda: len(counter.queue._idle) == 1, "it waits")
    counter.put("b")
    assert answers(waiting) == ["b"]


def test_a_thread_that_was_refused_is_started_later(counter: Counter, refused: threading.Event) -> None:
    counter.put("a", "b", "c")
    assert counter.get() == "a"
    refused.clear()
    counter.put("d", "e")
    assert [counter.get(), counter.get(), counter.get()] == ["b", "c", "d"]
    counter.desk.now += LONGEST_AHEAD
    until(lambda: not counter.desk.dispatcher._ready, "e is released by it")


# ---- a worker that stops


def test_nothing_is_handed_out_when_the_worker_stops(counter: Counter, threads: ThreadPoolExecutor) -> None:
    waiting = threads.submit(counter.get, 0.2)
    counter.put("a", "b")
    assert waiting.result(LONG) == "a"
    counter.stopping.set()
    counter.put("c")
    with pytest.raises(Empty):
        counter.get(0.05)
    assert sorted(counter.left()) == ["b", "c"]


def test_what_was_claimed_ahead_is_free_before_anything_goes_back(counter: Counter) -> None:
    counter.put("a", "b", "c", "d")
    assert counter.get() == "a"
    counter.put("e")
    counter.stopping.set()
    first = counter.queue.get_nowait().message.name
    for name in ("b", "c", "d"):  # whoever gets the message must not find the job held
        lease = counter.desk.lease(name)
        assert (lease.attempt, lease.crashes) == (1, 0)
    assert sorted([first, *counter.left()]) == ["b", "c", "d", "e"]
    with pytest.raises(Empty):
        counter.queue.get_nowait()


def test_what_is_held_by_another_worker_goes_back_too(counter: Counter) -> None:
    counter.desk.lease("a")
    counter.put("a", redelivered=True)
    with pytest.raises(Empty):
        counter.get(0.01)
    assert counter.queue.qsize() == 1
    assert counter.left() == ["a"]


def test_all_goes_back_when_the_release_is_not_answered(counter: Counter) -> None:
    counter.put("a", "b", "c")
    assert counter.get() == "a"
    counter.desk.away = StoreUnavailable("the store is away")
    assert sorted(counter.left()) == ["b", "c"]


# ---- claims that fail


@pytest.mark.parametrize("error", [StoreUnavailable("the store is away"), RuntimeError("a mistake")])
def test_a_claim_that_fails_loses_nothing_and_its_thread_goes_on(counter: Counter, error: Exception) -> None:
    counter.put("a", "b", "c")
    counter.desk.away = error
    got = [counter.get(), counter.get(), counter.get()]
    assert sorted(got) == ["a", "b", "c"]
    assert got[0] == "a"
    assert counter.left() == []


# ---- what is unfinished


def test_join_returns_once_all_that_was_put_has_been_processed(counter: Counter, threads: ThreadPoolExecutor) -> None:
    counter.put("a", "b")
    joined = threads.submit(counter.queue.join)
    for _ in range(2):
        counter.get()
        assert not joined.done()
        counter.queue.task_done()
    joined.result(LONG)
    assert counter.queue.unfinished_tasks == 0


def test_a_job_that_ends_while_it_is_still_being_put_is_not_waited_for(
    counter: Counter, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = counter.desk.dispatcher.put

    def and_run_it(delivery: Delivery) -> None:
        put(delivery)

        def run() -> None:
            counter.get()
            counter.queue.task_done()

        ran.append(threads.submit(run))
        with pytest.raises(TimeoutError):  # until the put is over, nobody has it
            ran[0].result(0.1)

    ran: list[Future[None]] = []
    monkeypatch.setattr(counter.desk.dispatcher, "put", and_run_it)
    counter.put("a")
    ran[0].result(LONG)
    threads.submit(counter.queue.join).result(LONG)


# ---- many threads


@contextmanager
def running(count: int, do: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run this in several threads meanwhile; fail if one of them does."""
    over = threading.Event()
    with ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(do, over) for _ in range(count)]
        try:
            yield
        finally:
            over.set()
        for one in futures:
            one.result(LONG)


def test_eight_threads_get_each_of_2000_exactly_once_whatever_the_store_does(counter: Counter) -> None:
    got: list[str] = []
    errors = [None, None, None, StoreUnavailable("the store is away"), RuntimeError("a mistake")]
    chance = random.Random(4)

    def work(over: threading.Event) -> None:
        while not over.is_set():
            try:
                got.append(counter.get(0.02))
            except Empty:
                continue
            if len(got) % 20 == 0:
                over.wait(0.06)  # so that what is claimed finds no thread meanwhile
            counter.queue.task_done()

    def disturb(over: threading.Event) -> None:
        while not over.wait(0.002):
            counter.desk.now += chance.choice([0.01, 0.06, 0.06, 3.0])
            counter.desk.away = chance.choice(errors)

    names = [f"job-{number}" for number in range(2_000)]
    with running(1, disturb), running(8, work):
        for number, name in enumerate(names):
            counter.put(name, redelivered=number % 7 == 0)
        counter.desk.away = None
        counter.queue.join()
    assert sorted(got) == sorted(names)
    assert any(isinstance(call, Claims) for call in counter.desk.calls)
    assert any(isinstance(call, Records) for call in counter.desk.calls), "some had to be released"


def test_what_eight_threads_leave_goes_back_exactly_once(counter: Counter) -> None:
    names = [f"job-{number}" for number in range(400)]
    got: list[str] = []

    def work(over: threading.Event) -> None:
        while not over.is_set():
            try:
                got.append(counter.get(0.02))
            except Empty:
                continue

    with running(8, work):
        counter.put(*names)
        until(lambda: len(got) > 50, "some have begun")
        counter.stopping.set()
    assert sorted(got + counter.left()) == sorted(names)
