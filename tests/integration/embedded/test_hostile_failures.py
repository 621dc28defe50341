"""What a job may raise, return or report: whatever it is, the job comes to its end and the worker's threads live."""

import asyncio
import io
import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import dramatiq
import pytest
from _pytest.logging import LogCaptureHandler
from dramatiq.middleware import Shutdown

from jobkit.broker.memory import MemoryExchange
from jobkit.context import Context
from jobkit.contracts import Job
from jobkit.errors import PermanentError, Retry, TimeLimitExceeded, TransientError
from jobkit.middleware.logs import configure_logging
from jobkit.producer import Producer
from jobkit.receipt import Receipt
from jobkit.retry import custom, fixed
from jobkit.service import Service
from jobkit.settings import PlatformSettings, ServiceSettings
from jobkit.store.base import JobKey, JobRecord, JobState
from jobkit.store.memory import MemoryStore

LIMIT = 20.0  # seconds
THREADS = 2


class Work(Job, queue="work"):
    """Do what the test says."""


class Undecided(Job, queue="work"):
    """The same, by a policy whose functions fail."""


class Says(Exception):
    """An error whose text is somebody's code."""

    def __init__(self, say: Callable[[], object]) -> None:
        super().__init__()
        self.say = say

    def __str__(self) -> str:
        return str(self.say())


class Stage:
    """A service in memory, whose workers do what the test says."""

    def __init__(self) -> None:
        self.do: Callable[[Context[None]], object] = lambda _context: None
        self.runs: list[int] = []
        self.store, self.exchange = MemoryStore(), MemoryExchange()
        service: Service[ServiceSettings, None] = Service("work", lifespan=lambda _settings: nullcontext())

        @service.actor(Work, retry=fixed(0.01, attempts=2, jitter=0))
        def work(_job: Work, context: Context[None]) -> object:
            self.runs.append(context.attempt)
            return self.do(context)

        def fail(*_: object) -> bool:
            raise SystemExit("a mistake in the policy")

        @service.actor(Undecided, retry=custom(fail, attempts=2, cap=0.01, retry_on=fail))
        def undecided(_job: Undecided, context: Context[None]) -> object:
            self.runs.append(context.attempt)
            return self.do(context)

        broker = service.embed(self.exchange, self.store, PlatformSettings(environment="test"), ServiceSettings())
        self.worker = dramatiq.Worker(broker, worker_threads=THREADS, worker_timeout=10)

    def send(self, job: Job) -> Receipt:
        return Producer.over(self.exchange).send(job)

    def end(self, receipt: Receipt, *states: JobState) -> JobRecord:
        key = JobKey.of(receipt.queue, receipt.actor, receipt.job_id)
        pause = threading.Event()
        for _ in range(int(LIMIT / 0.005)):
            record = self.store.record(key)
            if record is not None and record.state in (states or (JobState.DONE, JobState.DEAD)):
                return record
            pause.wait(0.005)
        raise AssertionError(f"no end within {LIMIT} s: {record}")

    def still_works(self) -> bool:
        """Whether each thread of the worker still runs jobs."""
        together = threading.Barrier(THREADS, timeout=LIMIT)
        self.do = lambda _context: together.wait() >= 0
        return all(self.end(receipt).state is JobState.DONE for receipt in [self.send(Work()) for _ in range(THREADS)])


@pytest.fixture
def stage() -> Iterator[Stage]:
    built = Stage()
    built.worker.start()
    yield built
    built.worker.stop(timeout=5_000)


@pytest.fixture(params=["json", "console"])
def logs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], str]]:
    """What the worker logs, as it is configured in production."""
    # pytest's own handler keeps texts as they are, and its processes cannot tell each other a lone surrogate.
    monkeypatch.setattr(LogCaptureHandler, "emit", lambda _handler, _record: None)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    configure_logging(request.param, "INFO")
    (handler,) = root.handlers
    assert isinstance(handler, logging.StreamHandler)
    handler.stream = written = io.StringIO()
    yield written.getvalue
    root.handlers[:] = handlers
    root.setLevel(level)


def raising(error: BaseException) -> Callable[[Context[None]], object]:
    def do(_context: Context[None]) -> object:
        raise error

    return do


def nested(depth: int) -> BaseException:
    error: Exception = ValueError("at the bottom")
    for _ in range(depth):
        error = ExceptionGroup("group", [error])
    return error


def chained(length: int) -> BaseException:
    error: Exception = ValueError("at the bottom")
    for number in range(length):
        link = ValueError(str(number))
        link.__cause__ = error
        error = link
    return error


def exiting() -> object:
    raise SystemExit("from __str__")


@pytest.mark.parametrize(
    "error",
    [
        nested(200),
        nested(3_000),
        chained(3_000),
        Says(exiting),
        Says(lambda: 1 / 0),
        Says(lambda: "\ud800"),
        Says(lambda: "x" * 5_000_000),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no text"),
        ValueError("x" * 5_000_000),
        OSError(2, "no such file", "\udcff"),
        GeneratorExit(),
        ExceptionGroup("group", [Says(exiting), ValueError("\ud800")]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_any_kind_becomes_a_dead_letter_and_all_threads_live(
    stage: Stage, error: BaseException, logs: Callable[[], str]
) -> None:
    stage.do = raising(error)
    assert stage.end(stage.send(Work())).state is JobState.DEAD
    (letter,) = stage.exchange.dead_letters("work")
    assert letter.failure.reason in {"attempts_exhausted", "not_retried"}
    assert letter.failure.type != "RecursionError"
    json.dumps(letter.failure.headers()).encode()
    assert stage.still_works()
    said = logs()
    assert "job died" in said
    assert len(said) < 200_000, "a text of any length is cut"


@pytest.mark.parametrize("error", [ValueError("x"), ExceptionGroup("group", [ValueError("x")])])
def test_a_policy_that_fails_in_any_way_uses_up_attempts(stage: Stage, error: Exception) -> None:
    stage.do = raising(error)
    stage.end(stage.send(Undecided()), JobState.DEAD)
    assert stage.runs == [1, 2]
    assert stage.still_works()


@pytest.mark.parametrize("text", ["\udcff.csv", "x" * 5_000_000])
def test_a_step_of_any_kind_is_recorded(stage: Stage, text: str) -> None:
    stage.do = lambda context: context.progress(50, text, text)
    record = stage.end(stage.send(Work()))
    assert (record.state, record.attempt) == (JobState.DONE, 1)
    assert record.step.encode()
    assert len(record.note) <= 1_000


def test_a_result_whose_own_code_exits_does_not_make_the_work_be_done_again(stage: Stage) -> None:
    class Odd(dict[str, object]):
        def items(self) -> object:  # type: ignore[override]  # what is tried
            raise SystemExit("from a result")

    stage.do = lambda _context: Odd(a=1)
    assert stage.end(stage.send(Work())).state is JobState.DEAD
    assert stage.runs == [1]


async def nothing() -> None: ...


async def many() -> object:
    yield 1


@pytest.mark.parametrize(
    "make", [nothing, many, lambda: map(str, [1]), lambda: (n for n in [1]), lambda: iter([1]), lambda: zip([1])]
)
def test_what_has_not_run_is_not_recorded_as_done(stage: Stage, make: Callable[[], object]) -> None:
    stage.do = lambda _context: make()
    record = stage.end(stage.send(Work()))
    assert record.state is JobState.DEAD
    assert "its work has not been done" in record.failure


def test_a_list_of_what_has_run_is_a_result(stage: Stage) -> None:
    stage.do = lambda _context: [str(n) for n in range(2)]
    assert stage.end(stage.send(Work())).result == b'["0","1"]'


def in_tasks(*errors: BaseException) -> Callable[[Context[None]], object]:
    """A job whose tasks fail together."""

    async def fail(error: BaseException) -> None:
        raise error

    async def run() -> None:
        async with asyncio.TaskGroup() as group:
            for error in errors:
                group.create_task(fail(error))

    return lambda _context: asyncio.run(run())


@pytest.mark.parametrize(
    ("errors", "reason", "runs"),
    [
        ([PermanentError("no such account")], "permanent", [1]),
        ([TransientError("busy"), PermanentError("no such account")], "permanent", [1]),
        ([TransientError("busy")], "attempts_exhausted", [1, 2]),
        ([Retry(0, cause=TransientError("busy"))], "attempts_exhausted", [1, 2]),
        ([TimeLimitExceeded("late")], "attempts_exhausted", [1, 2]),
    ],
)
def test_failures_in_a_task_group_are_judged_one_by_one(
    stage: Stage, errors: list[BaseException], reason: str, runs: list[int]
) -> None:
    stage.do = in_tasks(*errors)
    stage.end(stage.send(Work()), JobState.DEAD)
    (letter,) = stage.exchange.dead_letters("work")
    assert (letter.failure.reason, stage.runs) == (reason, runs)
    assert letter.failure.type != "ExceptionGroup"
    assert "TaskGroup" in letter.failure.traceback


def test_a_job_in_a_task_group_that_a_deployment_interrupts_is_handed_back(stage: Stage) -> None:
    interrupted = threading.Event()

    def once(context: Context[None]) -> object:
        if not interrupted.is_set():
            interrupted.set()
            return in_tasks(Shutdown("the worker stops"), asyncio.CancelledError())(context)
        return "done"

    stage.do = once
    record = stage.end(stage.send(Work()))
    assert (record.state, record.attempt, stage.runs) == (JobState.DONE, 1, [1, 1])
    assert stage.exchange.dead_letters("work") == []
