"""A whole worker in this process: Dramatiq's threads and our middleware, with queues and records in memory."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import dramatiq
import pytest
from dramatiq import Broker, Message
from dramatiq.broker import MessageProxy
from dramatiq.middleware import CurrentMessage, Middleware, MiddlewareError, SkipMessage

from jobkit import waits
from jobkit.broker.memory import DeadLetter, MemoryBroker, MemoryExchange
from jobkit.context import Context
from jobkit.contracts import Job
from jobkit.errors import BrokerUnavailable, PermanentError, SendRefused, Snooze, StoreUnavailable, TransientError
from jobkit.middleware import idempotency
from jobkit.producer import Producer
from jobkit.receipt import Receipt
from jobkit.retry import custom, fixed, never
from jobkit.run.carrier import Carrier
from jobkit.service import Service
from jobkit.settings import PlatformSettings, ServiceSettings
from jobkit.store.base import Finished, Held, JobKey, JobRecord, JobState, Lease, Suspect
from jobkit.store.memory import MemoryStore

WAIT = 0.005  # seconds until a retry


class Work(Job, queue="work", lanes=("high", "normal")):
    """Do what the test has told the desk."""

    name: str = "job"


class Step(Job, queue="next"):
    """A job of another service."""

    name: str


class Once(Job, queue="work"):
    """What nobody may do again."""


class Versioned(Job, queue="work", version=2):
    """A contract that has changed."""


@dataclass
class Desk:
    """The resources of the service under test: what to do, and what was done."""

    do: Callable[[Work, "Context[Desk]"], object] = lambda _job, _context: None
    runs: list[tuple[str, int]] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    is_open: bool = False


class Store(MemoryStore):
    """A store with a clock that moves forward on demand, and outages and errors on demand."""

    def __init__(self) -> None:
        super().__init__(clock=lambda: time.time() + self.skipped)
        self.skipped = 0.0
        self.failures: dict[str, list[Exception]] = {}

    def _meet(self, method: str) -> None:
        if self.failures.get(method):
            raise self.failures[method].pop(0)

    def acquire(self, job: JobKey, owner: str, **more: Any) -> Lease | Held | Suspect | Finished:  # Any: as declared
        self._meet("acquire")
        return super().acquire(job, owner, **more)

    def report(self, lease: Lease, *, percent: float, step: str, note: str) -> bool:
        self._meet("report")
        return super().report(lease, percent=percent, step=step, note=note)

    def complete(self, lease: Lease, result: bytes) -> bool:
        self._meet("complete")
        return super().complete(lease, result)

    def release(self, lease: Lease, **more: Any) -> bool:  # Any: as declared
        self._meet("release")
        return super().release(lease, **more)


class Stage:
    """Two services on one exchange, their workers and a producer."""

    def __init__(self, *, foreign: Sequence[Middleware] = ()) -> None:
        self.desk, self.store, self.exchange = Desk(), Store(), MemoryExchange()
        self.producer = Producer.over(self.exchange)
        platform, settings = PlatformSettings(environment="test"), ServiceSettings()
        self.brokers = [s.embed(self.exchange, self.store, platform, settings) for s in self._services()]
        for one in foreign:
            self.brokers[0].add_middleware(one)
        self.workers = [dramatiq.Worker(broker, worker_threads=2, worker_timeout=10) for broker in self.brokers]

    def _services(self) -> list["Service[ServiceSettings, Desk]"]:
        @contextlib.contextmanager
        def sit_down(_settings: ServiceSettings) -> Iterator[Desk]:
            self.desk.is_open = True
            yield self.desk
            self.desk.is_open = False

        first: Service[ServiceSettings, Desk] = Service("work", lifespan=sit_down)
        second: Service[ServiceSettings, Desk] = Service("next", lifespan=sit_down)

        @first.actor(Work, retry=fixed(WAIT, attempts=3, retry_on=TransientError))
        def work(job: Work, context: Context[Desk]) -> object:
            self.desk.runs.append((job.name, context.attempt))
            return self.desk.do(job, context)

        @first.actor(Once, retry=never())
        def once(_job: Once, context: Context[Desk]) -> object:
            self.desk.runs.append(("once", context.attempt))
            return self.desk.do(Work(), context)

        @first.actor(Versioned)
        def versioned(_job: Versioned, _context: Context[Desk]) -> None:
            self.desk.runs.append(("versioned", 1))

        @second.actor(Step)
        def step(job: Step, _context: Context[Desk]) -> None:
            self.desk.steps.append(job.name)

        return [first, second]

    def start(self) -> None:
        for worker in self.workers:
            worker.start()

    def stop(self) -> None:
        for worker in self.workers:
            worker.stop(timeout=5_000)

    def record(self, receipt: Receipt) -> JobRecord | None:
        return self.store.record(JobKey.of(receipt.queue, receipt.actor, receipt.job_id))

    def wait(self, receipt: Receipt, state: JobState) -> JobRecord:
        def stands() -> bool:
            record = self.record(receipt)
            return record is not None and record.state is state

        until(stands)
        record = self.record(receipt)
        assert record is not None
        return record

    def dead_letter(self) -> DeadLetter:
        until(lambda: bool(self.exchange.dead_letters("work")))
        (letter,) = self.exchange.dead_letters("work")
        return letter

    def idle(self) -> None:
        until(lambda: not any(queue.unfinished_tasks for b in self.brokers for queue in b.queues.values()))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 8
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.002)


@pytest.fixture
def brief_deferrals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a copy that finds its job held ask again soon."""
    monkeypatch.setattr(idempotency, "LONGEST_DEFERRAL", timedelta(seconds=0.02))


@pytest.fixture
def stage() -> Iterator[Stage]:
    built = Stage()
    built.start()
    yield built
    built.stop()


def failing(*errors: BaseException) -> Callable[[Work, Context[Desk]], object]:
    remaining = list(errors)

    def do(_job: Work, _context: Context[Desk]) -> object:
        if remaining:
            raise remaining.pop(0)
        return "done at last"

    return do


def test_a_job_runs_once_and_its_result_is_recorded(stage: Stage) -> None:
    stage.desk.do = lambda job, context: {"hello": job.name, "fenced": context.fence > 0}
    record = stage.wait(stage.producer.send(Work(name="a")), JobState.DONE)
    assert record.result == b'{"hello":"a","fenced":true}'
    assert record.percent == 100
    assert stage.desk.runs == [("a", 1)]


def test_a_lane_is_served(stage: Stage) -> None:
    receipt = stage.producer.send(Work(), lane="high")
    stage.wait(receipt, JobState.DONE)
    assert receipt.queue == "work.high"


def test_a_failed_job_is_retried_until_it_succeeds(stage: Stage) -> None:
    stage.desk.do = failing(TransientError("busy"), TransientError("busy"))
    record = stage.wait(stage.producer.send(Work()), JobState.DONE)
    assert [attempt for _, attempt in stage.desk.runs] == [1, 2, 3]
    assert record.attempt == 3
    assert stage.exchange.dead_letters("work") == []


def test_a_job_whose_attempts_are_used_up_dies_with_its_story(stage: Stage) -> None:
    stage.desk.do = failing(*(TransientError(f"busy {n}") for n in range(9)))
    receipt = stage.producer.send(Work(name="hopeless"))
    failure = stage.dead_letter().failure
    assert (failure.reason, failure.type, failure.message) == ("attempts_exhausted", "TransientError", "busy 2")
    assert failure.attempts == 3
    assert failure.sent_at <= failure.first_failed_at < failure.died_at
    assert stage.dead_letter().message.kwargs == {"name": "hopeless"}
    assert stage.wait(receipt, JobState.DEAD).failure == "TransientError: busy 2"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PermanentError("no such address"), "permanent"),
        (ValueError("a mistake in the code"), "not_retried"),
        (SystemExit(3), "not_retried"),
        (KeyboardInterrupt(), "not_retried"),
    ],
)
def test_what_is_not_to_be_retried_dies_at_once_and_the_worker_lives(
    stage: Stage, error: BaseException, reason: str
) -> None:
    stage.desk.do = failing(error)
    stage.wait(stage.producer.send(Work(name="bad")), JobState.DEAD)
    assert stage.dead_letter().failure.reason == reason
    for number in range(4):
        stage.wait(stage.producer.send(Work(name=f"good {number}")), JobState.DONE)
    assert stage.desk.runs.count(("bad", 1)) == 1


def test_a_snooze_uses_up_no_attempt(stage: Stage) -> None:
    stage.desk.do = failing(*(Snooze(WAIT) for _ in range(6)))
    record = stage.wait(stage.producer.send(Work()), JobState.DONE)
    assert [attempt for _, attempt in stage.desk.runs] == [1] * 7
    assert record.attempt == 1


def test_snoozes_and_failures_are_told_apart(stage: Stage) -> None:
    stage.desk.do = failing(Snooze(WAIT), TransientError("busy"), Snooze(WAIT), Snooze(WAIT), TransientError("busy"))
    stage.wait(stage.producer.send(Work()), JobState.DONE)
    assert [attempt for _, attempt in stage.desk.runs] == [1, 1, 2, 2, 2, 3]


def test_a_duplicate_of_a_job_that_is_done_is_answered_from_its_record(stage: Stage) -> None:
    receipts = {stage.wait(stage.producer.send(Work(), key="invoice/17"), JobState.DONE).job for _ in range(5)}
    stage.idle()
    assert len(receipts) == 1
    assert len(stage.desk.runs) == 1


def test_a_duplicate_that_comes_while_the_job_runs_waits_and_is_then_answered(
    stage: Stage, brief_deferrals: None
) -> None:
    go_on = threading.Event()
    stage.desk.do = lambda _job, _context: go_on.wait(5)
    first = stage.producer.send(Work(), key="slow")
    until(lambda: len(stage.desk.runs) == 1)
    stage.producer.send(Work(), key="slow")
    until(lambda: stage.brokers[0].queues["work.DQ"].unfinished_tasks == 1)
    go_on.set()
    stage.wait(first, JobState.DONE)
    stage.idle()
    assert len(stage.desk.runs) == 1


def test_a_dead_job_that_is_sent_anew_runs_anew(stage: Stage) -> None:
    stage.desk.do = failing(PermanentError("no"))
    stage.wait(stage.producer.send(Work(), key="k"), JobState.DEAD)
    before = time.time()
    until(lambda: int(time.time() * 1000) > int(before * 1000))  # another timestamp: sent anew, not redelivered
    record = stage.wait(stage.producer.send(Work(), key="k"), JobState.DONE)
    assert record.attempt == 1


def test_a_job_that_took_down_three_workers_is_poison_and_does_not_run_again(stage: Stage) -> None:
    key = JobKey("work", "work", "deadly")
    for number in range(4):  # four leases that lapse: their workers never said a word
        assert isinstance(stage.store.acquire(key, str(number), ttl=timedelta(seconds=1), sent_at=1), Lease)
        stage.store.skipped += 2
    stage.producer.send(Work(), job_id="deadly")
    failure = stage.dead_letter().failure
    assert failure.reason == "poison"
    assert "4 workers died" in failure.message
    assert stage.desk.runs == []


def test_two_crashes_are_not_yet_poison(stage: Stage) -> None:
    key = JobKey("work", "work", "unlucky")
    for number in range(2):
        assert isinstance(stage.store.acquire(key, str(number), ttl=timedelta(seconds=1), sent_at=1), Lease)
        stage.store.skipped += 2
    stage.wait(stage.producer.send(Work(), job_id="unlucky"), JobState.DONE)
    assert stage.exchange.dead_letters("work") == []


@pytest.mark.parametrize("method", ["acquire", "complete"])
def test_a_job_runs_exactly_once_through_an_outage_of_the_store(stage: Stage, method: str) -> None:
    stage.store.failures[method] = [StoreUnavailable("no answer") for _ in range(2)]
    stage.wait(stage.producer.send(Work()), JobState.DONE)
    stage.idle()
    assert len(stage.desk.runs) == 1
    assert stage.store.failures[method] == []


def test_a_retry_is_recorded_after_an_outage_and_no_attempt_is_lost(stage: Stage, brief_deferrals: None) -> None:
    stage.store.failures["release"] = [StoreUnavailable("no answer") for _ in range(2)]
    stage.desk.do = failing(TransientError("busy"))
    record = stage.wait(stage.producer.send(Work()), JobState.DONE)
    assert (record.attempt, len(stage.desk.runs)) == (2, 2)


def test_a_job_comes_back_when_a_hook_failed_before_its_end_was_recorded(stage: Stage) -> None:
    stage.store.failures["complete"] = [RuntimeError("a mistake in a hook")]

    def work_and_lose_the_lease(_job: Work, _context: Context[Desk]) -> None:
        stage.store.skipped += 60  # the lease that nobody gives back lapses

    stage.desk.do = work_and_lose_the_lease
    stage.wait(stage.producer.send(Work()), JobState.DONE)
    assert len(stage.desk.runs) == 2
    keepers = [one._path.keeper for one in stage.brokers[0].middleware if isinstance(one, Carrier)]
    until(lambda: not keepers[0]._kept)  # nobody renews the lease of a run that has ended


def test_nothing_is_lost_when_the_retry_cannot_be_published_for_a_while(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = [BrokerUnavailable("no broker"), BrokerUnavailable("no broker")]
    publish = MemoryBroker.enqueue

    def enqueue(self: MemoryBroker, message: Message[Any], *, delay: int | None = None) -> Message[Any]:
        if delay is not None and refusals:
            raise refusals.pop()
        return publish(self, message, delay=delay)

    monkeypatch.setattr(MemoryBroker, "enqueue", enqueue)
    stage.desk.do = failing(TransientError("busy"))
    record = stage.wait(stage.producer.send(Work()), JobState.DONE)
    assert (record.attempt, refusals) == (2, [])


@pytest.mark.parametrize("result", [object(), threading.Lock(), {"key": object()}, "x" * 300_000, "\ud800"])
def test_a_result_that_cannot_be_recorded_does_not_make_the_work_be_done_again(stage: Stage, result: object) -> None:
    stage.desk.do = lambda _job, _context: result
    record = stage.wait(stage.producer.send(Work()), JobState.DEAD)
    stage.idle()
    assert "ResultNotKept: the result" in record.failure
    assert len(stage.desk.runs) == 1


@pytest.mark.parametrize(
    ("message", "reason", "says"),
    [
        (
            {"options": {"contract_version": 3, "refused": 3600}, "actor_name": "versioned"},
            "newer_contract",
            "version 3",
        ),
        ({"kwargs": {"name": ["x"]}}, "bad_payload", "name"),
        ({"args": (1,)}, "bad_payload", "args"),
    ],
)
def test_a_message_that_breaks_the_contract_dies_before_any_code_runs(
    stage: Stage, message: dict[str, Any], reason: str, says: str
) -> None:
    fields = {
        "queue_name": "work",
        "actor_name": "work",
        "args": (),
        "kwargs": {},
        "options": {},
        "message_id": "m",
        "message_timestamp": 1,
    }
    stage.exchange.send([Message(**{**fields, **message})])
    failure = stage.dead_letter().failure
    assert failure.reason == reason
    assert says in failure.message
    assert stage.desk.runs == []


def test_fields_that_a_newer_contract_has_gained_are_ignored_and_kept(stage: Stage) -> None:
    stage.desk.do = failing(PermanentError("no"))
    stage.exchange.send([Message("work", "work", (), {"name": "a", "colour": "red"}, {}, "newer", 1)])
    assert stage.dead_letter().message.kwargs == {"name": "a", "colour": "red"}
    assert stage.desk.runs == [("a", 1)]


def test_a_message_of_a_newer_contract_waits_for_a_newer_worker_and_uses_up_no_attempt(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waits, "FIRST_WAIT", timedelta(milliseconds=10))
    stage.exchange.send([Message("work", "versioned", (), {}, {"contract_version": 3}, "early", 1)])
    key = JobKey("work", "versioned", "early")
    until(lambda: (found := stage.store.record(key)) is not None and found.state is JobState.WAITING)
    waiting = stage.store.record(key)
    assert waiting is not None
    assert (waiting.attempt, "update the worker" in waiting.waits_for) == (0, True)
    monkeypatch.setattr(Versioned, "version", 3)
    until(lambda: stage.desk.runs == [("versioned", 1)])
    assert stage.exchange.dead_letters("work") == []


def test_an_older_payload_is_run_by_a_newer_worker(stage: Stage) -> None:
    stage.exchange.send([Message("work", "versioned", (), {}, {}, "old", 1)])
    until(lambda: stage.desk.runs == [("versioned", 1)])


def test_progress_can_be_read_while_the_job_runs(stage: Stage) -> None:
    reported, go_on = threading.Event(), threading.Event()

    def do(_job: Work, context: Context[Desk]) -> None:
        context.progress(140, "resize", "3 of 7")
        context.progress(42.5, "resize", "3 of 7")
        reported.set()
        go_on.wait(5)

    stage.desk.do = do
    receipt = stage.producer.send(Work())
    assert reported.wait(5)
    record = stage.record(receipt)
    assert record is not None
    assert (record.state, record.percent, record.step, record.note) == (JobState.RUNNING, 42.5, "resize", "3 of 7")
    go_on.set()
    assert stage.wait(receipt, JobState.DONE).percent == 100


def test_progress_that_cannot_be_recorded_does_not_fail_the_job(stage: Stage) -> None:
    stage.store.failures["report"] = [StoreUnavailable("no answer")]
    stage.desk.do = lambda _job, context: context.progress(50)
    assert stage.wait(stage.producer.send(Work()), JobState.DONE).attempt == 1


@pytest.mark.usefixtures("brief_deferrals")  # the second copy of a child may find the first one running
def test_a_run_that_is_repeated_sends_the_same_children(stage: Stage) -> None:
    sent: list[Receipt] = []
    failures = [TransientError("after the sends")]

    def do(_job: Work, context: Context[Desk]) -> None:
        sent.append(context.send(Step(name="one")))
        sent.append(context.send(Step(name="two"), child_key="two"))
        if failures:
            raise failures.pop()

    stage.desk.do = do
    stage.wait(stage.producer.send(Work()), JobState.DONE)
    stage.idle()
    assert sent[:2] == sent[2:]
    assert sorted(stage.desk.steps) == ["one", "two"]


@pytest.mark.usefixtures("brief_deferrals")
def test_a_child_that_has_died_does_not_run_again_when_its_parent_does(stage: Stage) -> None:
    sent: list[Receipt] = []

    def do(job: Work, context: Context[Desk]) -> None:
        if job.name == "child":
            raise PermanentError("no")
        sent.append(context.send(Work(name="child")))
        stage.wait(sent[-1], JobState.DEAD)
        if len(sent) == 1:
            raise TransientError("after the child's death")

    stage.desk.do = do
    stage.wait(stage.producer.send(Work(name="parent")), JobState.DONE)
    stage.idle()
    assert stage.desk.runs == [("parent", 1), ("child", 1), ("parent", 2)]
    assert len(stage.exchange.dead_letters("work")) == 1


def test_children_of_different_jobs_are_different_jobs(stage: Stage) -> None:
    stage.desk.do = lambda job, context: context.send(Step(name=job.name), child_key="same key").job_id
    for name in ("a", "b"):
        stage.wait(stage.producer.send(Work(name=name)), JobState.DONE)
    stage.idle()
    assert sorted(stage.desk.steps) == ["a", "b"]


def test_a_job_waits_with_what_it_has_done_until_its_children_are_accepted(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = [BrokerUnavailable("no broker"), SendRefused("full"), BrokerUnavailable("no broker")]
    send = MemoryExchange.send

    def refuse(self: MemoryExchange, messages: Sequence[Message[Any]], *, delay: timedelta = timedelta()) -> None:
        if messages[0].actor_name == "step" and refusals:
            raise refusals.pop()
        send(self, messages, delay=delay)

    monkeypatch.setattr(MemoryExchange, "send", refuse)
    stage.desk.do = lambda _job, context: context.send(Step(name="child")).job_id
    record = stage.wait(stage.producer.send(Work()), JobState.DONE)
    stage.idle()
    assert (record.attempt, stage.desk.steps) == (1, ["child"]), "an outage burns no attempt"
    assert len(stage.desk.runs) == 1, "nor is what came before the send done again"


def test_a_job_that_met_an_outage_by_itself_runs_again_with_its_attempts(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waits, "FIRST_WAIT", timedelta(milliseconds=10))
    outages = [BrokerUnavailable("by a producer of its own")]

    def do(_job: Work, _context: Context[Desk]) -> None:
        if outages:
            raise outages.pop()

    stage.desk.do = do
    assert stage.wait(stage.producer.send(Work()), JobState.DONE).attempt == 1
    assert len(stage.desk.runs) == 2


def test_a_job_that_is_skipped_by_its_own_code_is_done_and_no_crash(stage: Stage) -> None:
    stage.desk.do = failing(SkipMessage("nothing to do"))
    receipt = stage.producer.send(Work())
    assert stage.wait(receipt, JobState.DONE).crashes == 0
    stage.idle()
    assert len(stage.desk.runs) == 1


class Rejects(Middleware):
    """Middleware as anybody writes it, that rejects what it does not like, as Dramatiq's age limit does."""

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        message.fail()
        raise SkipMessage("too old")


def test_a_job_that_other_middleware_rejects_is_dead_and_no_crash(stage: Stage) -> None:
    stage.brokers[0].add_middleware(Rejects())
    record = stage.wait(stage.producer.send(Work()), JobState.DEAD)
    assert (record.crashes, stage.desk.runs) == (0, [])


def test_a_job_that_nobody_may_do_again_dies_of_an_outage_that_it_met(stage: Stage) -> None:
    stage.desk.do = failing(BrokerUnavailable("by a producer of its own"))
    stage.wait(stage.producer.send(Once()), JobState.DEAD)
    stage.idle()
    assert stage.desk.runs == [("once", 1)]
    assert stage.dead_letter().failure.reason == "attempts_exhausted"


class Stumbles(Middleware):
    """Middleware that stands before ours, and whose first call ends in an error that Dramatiq lets out of a hook."""

    calls = 0

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        self.calls += 1
        if self.calls == 1:
            raise MiddlewareError("a mistake of somebody else's")


def test_a_job_that_other_middleware_fails_to_let_in_is_not_lost(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.brokers[0].add_middleware(Stumbles(), before=Carrier)
    stage.wait(stage.producer.send(Work()), JobState.DONE)
    assert stage.desk.runs == [("job", 1)]


class Onlooker(Middleware):
    """Middleware as anybody writes it, with hooks that fail."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        self.seen.append("before")
        raise RuntimeError("a mistake of somebody else's")

    def after_process_message(
        self, broker: Broker, message: MessageProxy, *, result: Any = None, exception: BaseException | None = None
    ) -> None:
        current = CurrentMessage.get_current_message()
        self.seen.append(f"after {current.actor_name if current else '?'}")
        raise RuntimeError("a mistake of somebody else's")


def test_middleware_from_elsewhere_fits_in_and_its_mistakes_lose_nothing() -> None:
    onlooker = Onlooker()
    stage = Stage(foreign=[CurrentMessage(), onlooker])
    stage.start()
    try:
        receipt = stage.producer.send(Work())
        assert stage.wait(receipt, JobState.DONE).attempt == 1
        stage.idle()
    finally:
        stage.stop()
    assert onlooker.seen == ["before", "after work"]
    assert len(stage.desk.runs) == 1


def test_a_worker_that_stops_hands_its_waiting_jobs_back(stage: Stage) -> None:
    running, go_on = threading.Semaphore(0), threading.Event()

    def do(_job: Work, _context: Context[Desk]) -> None:
        running.release()
        go_on.wait(5)

    stage.desk.do = do
    for number in range(6):
        stage.producer.send(Work(name=str(number)))
    for _ in range(2):
        assert running.acquire(timeout=5)
    stopper = threading.Thread(target=stage.stop)
    stopper.start()
    until(stage.brokers[0].stopping.is_set)
    go_on.set()
    stopper.join(8)
    assert len(stage.desk.runs) == 2
    assert stage.brokers[0].queues["work"].qsize() == 4
    assert not stage.desk.is_open


def test_resources_are_open_while_jobs_run_and_closed_after_the_last() -> None:
    stage = Stage()
    states: list[bool] = []
    stage.desk.do = lambda _job, _context: states.append(stage.desk.is_open)
    stage.start()
    stage.wait(stage.producer.send(Work()), JobState.DONE)
    stage.stop()
    assert states == [True]
    assert not stage.desk.is_open


def test_a_declaration_that_cannot_work_is_refused_where_it_is_written() -> None:
    service: Service[ServiceSettings, None] = Service("work", lifespan=lambda _settings: contextlib.nullcontext())
    with pytest.raises(TypeError, match="goes to queue 'next'"):
        service.actor(Step)
    service.actor(Work)(lambda _job, _context: None)
    with pytest.raises(TypeError, match="two actors for Work"):
        service.actor(Work)


def test_actors_have_their_services_policy_and_time_limit_unless_they_have_their_own() -> None:
    service: Service[ServiceSettings, None] = Service(
        "work", lifespan=lambda _settings: contextlib.nullcontext(), retry=never(), time_limit=timedelta(minutes=5)
    )
    service.actor(Work)(lambda _job, _context: None)
    service.actor(Once, retry=fixed(1), time_limit=timedelta(minutes=1))(lambda _job, _context: None)
    declared = service.actors["work"], service.actors["once"]
    assert [one.retry.attempts for one in declared] == [1, 8]
    assert [one.time_limit for one in declared] == [timedelta(minutes=5), timedelta(minutes=1)]


def test_a_mistake_in_a_retry_policy_does_not_make_a_job_spin() -> None:
    stage = Stage()
    work = stage.brokers[0].get_actor("work")
    work.options["retry"] = custom(lambda _attempt, _failure: 1 / 0, cap=WAIT, attempts=3)
    stage.desk.do = failing(*(TransientError("busy") for _ in range(9)))
    stage.start()
    stage.producer.send(Work())
    try:
        assert stage.dead_letter().failure.attempts == 3
    finally:
        stage.stop()
    assert len(stage.desk.runs) == 3
