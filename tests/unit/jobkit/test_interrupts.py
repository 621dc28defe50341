"""An interrupt reaches the running job and nothing else, in real threads."""

import contextlib
import io
import logging
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from queue import SimpleQueue

import pytest
from dramatiq.middleware import Shutdown
from in_process import until

from jobkit.errors import LeaseLost, TimeLimitExceeded
from jobkit.interrupts import Interrupts
from jobkit.interrupts.asynchronous import AsynchronousRaiser
from jobkit.middleware import logs

LONG = 60.0

#: How interrupts are raised here. On Python 3.14 asynchronous exceptions leave even our own plain lock behind.
MONITORED = sys.version_info >= (3, 12)
WAYS = [*(["monitored"] if MONITORED else []), *(["asynchronous"] if sys.version_info < (3, 14) else [])]


@pytest.fixture(params=WAYS)
def interrupts(request: pytest.FixtureRequest) -> Interrupts:
    return Interrupts(raiser=AsynchronousRaiser() if request.param == "asynchronous" else None)


@pytest.fixture
def eager_switching() -> Iterator[None]:
    """Let threads take turns at nearly every instruction, so that races happen."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Runner(threading.Thread):
    """Runs a job in a thread of its own and keeps what came out."""

    def __init__(self, interrupts: Interrupts, job: Callable[[], object], limit: float = LONG) -> None:
        super().__init__(daemon=True)
        self._interrupts, self._job, self._limit = interrupts, job, limit
        self.outcome: object = None
        self.started = threading.Event()

    def run(self) -> None:
        try:
            self.outcome = self._interrupts.run(self._marked, limit=self._limit)
        except BaseException as error:  # noqa: BLE001, RUF100  whatever comes out is what the test looks at
            self.outcome = error

    def _marked(self) -> object:
        self.started.set()
        return self._job()

    def begin(self) -> int:
        self.start()
        assert self.started.wait(5)
        assert self.ident is not None
        return self.ident

    def end(self) -> object:
        self.join(5)
        assert not self.is_alive()
        return self.outcome


def spin_until(done: threading.Event) -> None:
    deadline = time.monotonic() + 5
    while not done.is_set():
        assert time.monotonic() < deadline


def forever() -> None:
    spin_until(threading.Event())


def test_a_job_over_its_limit_is_interrupted(interrupts: Interrupts) -> None:
    begun = time.monotonic()
    with pytest.raises(TimeLimitExceeded):
        interrupts.run(forever, limit=0.03)
    assert 0.03 <= time.monotonic() - begun < 2


def test_a_job_within_its_limit_returns_its_value_or_raises_its_own_error(interrupts: Interrupts) -> None:
    assert interrupts.run(lambda: 7, limit=LONG) == 7
    with pytest.raises(ZeroDivisionError):
        interrupts.run(lambda: 1 / 0, limit=LONG)


def test_a_job_in_a_system_call_is_interrupted_when_it_goes_on(interrupts: Interrupts) -> None:
    gate = threading.Lock()
    gate.acquire()

    def job() -> None:
        gate.acquire()
        forever()

    runner = Runner(interrupts, job)
    thread = runner.begin()
    assert interrupts.interrupt(thread, LeaseLost)
    gate.release()
    assert isinstance(runner.end(), LeaseLost)


def test_an_interrupt_that_has_not_landed_can_be_taken_back(interrupts: Interrupts) -> None:
    gate = threading.Lock()
    gate.acquire()

    def job() -> str:
        gate.acquire()
        for _ in range(1_000):
            pass
        return "undisturbed"

    runner = Runner(interrupts, job)
    thread = runner.begin()
    interrupts._raiser.raise_in(thread, Shutdown)
    interrupts._raiser.take_back(thread)
    gate.release()
    assert runner.end() == "undisturbed"


def test_each_kind_of_interrupt_arrives_as_itself(interrupts: Interrupts) -> None:
    for kind in (LeaseLost, Shutdown, TimeLimitExceeded):
        runner = Runner(interrupts, forever)
        assert interrupts.interrupt(runner.begin(), kind)
        assert type(runner.end()) is kind


def test_a_job_is_interrupted_once_so_that_its_cleanup_can_finish(interrupts: Interrupts) -> None:
    cleaning, go_on = threading.Event(), threading.Event()

    def job() -> str:
        try:
            forever()
        except TimeLimitExceeded:
            cleaning.set()
            spin_until(go_on)
        return "cleaned up"

    runner = Runner(interrupts, job)
    thread = runner.begin()
    assert interrupts.interrupt(thread, TimeLimitExceeded)
    assert cleaning.wait(5)
    assert not interrupts.interrupt(thread, Shutdown)
    assert interrupts.interrupt_all(Shutdown) == 0
    go_on.set()
    assert runner.end() == "cleaned up"


def test_a_thread_without_a_job_is_left_alone(interrupts: Interrupts) -> None:
    interrupts.run(lambda: None, limit=LONG)
    assert not interrupts.interrupt(threading.get_ident(), Shutdown)
    assert interrupts.interrupt_all(Shutdown) == 0


def test_all_running_jobs_can_be_interrupted_together(interrupts: Interrupts) -> None:
    runners = [Runner(interrupts, forever) for _ in range(3)]
    for runner in runners:
        runner.begin()
    assert interrupts.interrupt_all(Shutdown) == 3
    assert all(isinstance(runner.end(), Shutdown) for runner in runners)


def test_the_limit_of_a_former_job_does_not_hit_the_next(interrupts: Interrupts) -> None:
    for _ in range(5):
        interrupts.run(lambda: None, limit=0.01)
    until = time.monotonic() + 0.05

    def next_job() -> str:
        while time.monotonic() < until:
            pass
        return "undisturbed"

    assert interrupts.run(next_job, limit=LONG) == "undisturbed"


def test_a_shorter_limit_that_comes_later_is_watched_too(interrupts: Interrupts) -> None:
    slow = Runner(interrupts, forever, limit=LONG)
    thread = slow.begin()
    with pytest.raises(TimeLimitExceeded):
        interrupts.run(forever, limit=0.02)
    assert slow.is_alive()
    interrupts.interrupt(thread, Shutdown)
    slow.end()


def test_once_the_limit_of_a_job_that_has_ended_is_over_nothing_is_looked_for(interrupts: Interrupts) -> None:
    assert interrupts.run(lambda: "done", limit=0.02) == "done"
    until(lambda: interrupts._next_look > time.monotonic() + LONG, "the thread that watches sleeps")


def test_jobs_that_end_just_at_their_limit_are_never_interrupted_afterwards(
    interrupts: Interrupts, eager_switching: None
) -> None:
    draw, limit = random.Random(7), 0.0002
    outcomes = {"returned": 0, "interrupted": 0}

    def job(length: float) -> str:
        until = time.monotonic() + length
        while time.monotonic() < until:
            pass
        return "returned"

    for number in range(20_000):  # many more than it takes, on a machine that does nothing else
        if number >= 2_000 and min(outcomes.values()) > 20:
            break
        length = limit * draw.uniform(0.7, 4.0)  # the clock that watches the limit is late by about as much
        try:
            outcome = interrupts.run(lambda length=length: job(length), limit=limit)  # type: ignore[misc]  # bound now
        except TimeLimitExceeded:
            outcome = "interrupted"
        for _ in range(20):  # an interrupt that escaped would land here, and fail the test
            time.monotonic()
        outcomes[outcome] += 1
    assert min(outcomes.values()) > 20, f"the race was not run: {outcomes}"


def test_what_a_job_has_returned_stands_wherever_an_interrupt_lands_afterwards(
    interrupts: Interrupts, eager_switching: None
) -> None:
    ended, draw = threading.Event(), random.Random(7)
    completed, lost, kept = False, 0, 0

    def job() -> None:
        nonlocal completed
        for _ in range(20):
            pass
        completed = True  # and returned: after the loop, the interpreter does not look for interrupts here

    def work() -> None:
        nonlocal completed, lost, kept
        while not ended.is_set():
            completed = False
            try:
                interrupts.run(job, limit=LONG)
                kept += 1
            except LeaseLost:
                lost += completed

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    struck, deadline = 0, time.monotonic() + 20
    while struck < 2_000 and time.monotonic() < deadline:
        struck += interrupts.interrupt(worker.ident or 0, LeaseLost)
        time.sleep(draw.random() * 1e-4)
    ended.set()
    worker.join(5)
    assert not worker.is_alive()
    assert kept, "the race was not run"
    assert lost == 0
    assert not interrupts._windows


def test_interrupts_at_the_start_and_the_finish_of_many_jobs_stop_no_worker(
    interrupts: Interrupts, eager_switching: None
) -> None:
    finished = threading.Event()
    escaped: list[BaseException] = []

    def attack() -> None:
        while not finished.is_set():
            interrupts.interrupt_all(Shutdown)

    def work() -> None:
        try:
            for _ in range(400):
                with contextlib.suppress(Shutdown, TimeLimitExceeded):
                    interrupts.run(lambda: None, limit=0.0001)
                time.monotonic()
        except BaseException as error:  # noqa: BLE001, RUF100  whatever escapes is what the test looks for
            escaped.append(error)

    attacker = threading.Thread(target=attack, daemon=True)
    workers = [threading.Thread(target=work, daemon=True) for _ in range(4)]
    attacker.start()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(8)
    finished.set()
    attacker.join(5)
    assert not any(worker.is_alive() for worker in workers), "a lock was left behind"
    assert escaped == []


# Where an interrupt lands in a callback of the garbage collector, Python prints it and goes on.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_of_a_job_that_logs_leaves_no_lock_behind(interrupts: Interrupts, eager_switching: None) -> None:
    handler = logs._Handler(io.StringIO())
    logger = logging.Logger("interrupted")  # in no hierarchy: nothing else may see these lines
    logger.addHandler(handler)
    for _ in range(60):
        done = threading.Event()

        def log_until_done(done: threading.Event = done) -> None:
            while not done.is_set():
                logger.warning("busy")

        runner = Runner(interrupts, log_until_done)
        assert interrupts.interrupt(runner.begin(), Shutdown)
        done.set()
        runner.end()
        assert handler.lock is not None
        assert handler.lock.acquire(timeout=1), "the interrupted thread has kept the handler's lock"
        handler.lock.release()


def test_an_interrupt_waits_for_the_end_of_a_shielded_call(interrupts: Interrupts) -> None:
    begun, go_on, steps = threading.Event(), threading.Event(), []

    def send() -> None:
        begun.set()
        assert go_on.wait(5)
        steps.append("ended")

    runner = Runner(interrupts, lambda: interrupts.shielded(send))
    thread = runner.begin()
    assert begun.wait(5)
    assert interrupts.interrupt(thread, Shutdown)
    assert interrupts.overruns(0) == [], "it has its time first"
    go_on.set()
    assert isinstance(runner.end(), Shutdown)
    assert steps == ["ended"]


def test_a_shielded_call_that_outlasts_its_time_is_an_overrun(interrupts: Interrupts) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def send() -> None:
        begun.set()
        assert go_on.wait(5)

    runner = Runner(interrupts, lambda: interrupts.shielded(send, at_most=0))
    thread = runner.begin()
    assert begun.wait(5)
    assert interrupts.interrupt(thread, Shutdown)
    assert [overrun.thread for overrun in interrupts.overruns(0)] == [thread]
    go_on.set()
    assert isinstance(runner.end(), Shutdown)


class CountingQueue(SimpleQueue[None]):
    """Counts what is put into it."""

    def __init__(self) -> None:
        super().__init__()
        self.puts = 0

    def put(self, item: None, block: bool = True, timeout: float | None = None) -> None:
        self.puts += 1
        super().put(item, block, timeout)


def test_short_jobs_do_not_wake_whoever_watches_their_limits_each_time() -> None:
    interrupts = Interrupts()
    interrupts._sooner = queue = CountingQueue()
    for _ in range(20):
        interrupts.run(lambda: None, limit=30)
        until(queue.empty, "it has looked")
    assert queue.puts == 1
