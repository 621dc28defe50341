"""What jobs end with is recorded together: at once where nothing else is, and none is harmed by another's."""

import io
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from in_process import until

from jobkit.effects import Completed, Effect, Pause, Record, Records, Released, Steps, Walk
from jobkit.errors import JobkitError, RecordUnreadable, StoreUnavailable
from jobkit.middleware import logs
from jobkit.patience import Patience, WorkerStopping
from jobkit.run.recorder import LARGEST_GROUP, End, Recorder, Together
from jobkit.store.base import JobKey, Lease

LIMIT = 20.0  # seconds
AWAY = StoreUnavailable("the store is away")

log = logging.getLogger("jobkit.test_recorder")


def lease(name: str) -> Lease:
    return Lease(JobKey("work", "work", name), "here:1", 1, 1)


class Office:
    """A recorder, its store, and what became of each job.

    Attributes:
        gate: The store answers only while this is set.
        calls: The jobs of each call.
        fails: What the next calls meet, each its own; None if it is answered.
        bad: What is wrong with the record of a job.
        pauses: How often an outage was waited for.
        settled: The jobs whose delivery was settled, in order.
        told: What the record of a job was answered, or what its path has ended with.
    """

    def __init__(self, most: int = 16, together: Together | None = None) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.calls: list[list[str]] = []
        self.fails: list[BaseException | None] = []
        self.bad: dict[str, JobkitError] = {}
        self.pauses = 0
        self.at_pause: Callable[[], None] = lambda: None
        self.settled: list[str] = []
        self.told: dict[str, object] = {}
        self.over = threading.Event()
        self.patience = Patience(threading.Event(), self.over, first=0.001, longest=0.002)
        self.recorder = (
            Recorder(self._perform, most, together=together) if together is not None else Recorder(self._perform, most)
        )

    def _perform(self, effect: Effect) -> object:
        match effect:
            case Records(records):
                return self._record(records)
            case Pause(_, unless):
                self.pauses += 1
                self.at_pause()
                return unless.is_set()
        raise AssertionError(effect)

    def _record(self, records: Sequence[Record]) -> list[bool | JobkitError]:
        names = [one.lease.job.id for one in records]
        self.calls.append(names)
        assert self.gate.wait(LIMIT)
        error = self.fails.pop(0) if self.fails else None
        if error is not None:
            raise error
        return [self.bad.get(name, True) for name in names]

    def path(self, name: str) -> Steps[None]:
        """Record a job; if it cannot be, hand it back."""
        try:
            self.told[name] = yield from self.patience.after(lambda: Record(lease(name), Completed(b"")))
        except WorkerStopping as stopping:
            self.told[name] = stopping
            try:
                yield Record(lease(name), Released())
            except StoreUnavailable:
                return
        except JobkitError as error:
            self.told[name] = error
        log.info("end of %s", name)

    def end(self, name: str, steps: Steps[None] | None = None, settle: Callable[[], None] | None = None) -> End:
        """Return a job that has come to its record."""
        walk = Walk(steps or self.path(name), self._perform)
        assert walk.go_on(until=Record)
        return End(walk, settle or (lambda: self.settled.append(name)))

    def add(self, *names: str) -> None:
        """Record jobs that have ended."""
        for name in names:
            self.recorder.add(self.end(name))

    @contextmanager
    def busy(self, pool: ThreadPoolExecutor) -> Iterator[Future[None]]:
        """Let a thread record the job ``first`` meanwhile."""
        self.gate.clear()
        first = pool.submit(self.add, "first")
        until(lambda: self.calls, "a thread records")
        try:
            yield first
        finally:
            self.gate.set()
        first.result(LIMIT)


@pytest.fixture
def office() -> Office:
    return Office()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


def test_a_job_that_ends_alone_is_recorded_at_once_and_waits_for_nobody(office: Office) -> None:
    for number, name in enumerate(("a", "b", "c"), 1):
        office.add(name)
        assert office.calls[-1] == [name]
        assert (len(office.calls), office.settled[-1]) == (number, name)


def test_what_ends_while_another_is_recorded_shares_one_call(office: Office, pool: ThreadPoolExecutor) -> None:
    names = [f"job-{number}" for number in range(10)]
    with office.busy(pool):
        office.add(*names)
        assert office.settled == [], "no delivery is settled before its record"
    assert office.calls == [["first"], names]
    assert office.settled == ["first", *names]
    assert office.told == dict.fromkeys(["first", *names], True)


def test_a_call_records_no_more_than_a_largest_group(pool: ThreadPoolExecutor) -> None:
    office = Office(most=1_000)
    names = [f"job-{number}" for number in range(2 * LARGEST_GROUP + 1)]
    with office.busy(pool):
        office.add(*names)
    assert [len(call) for call in office.calls] == [1, LARGEST_GROUP, LARGEST_GROUP, 1]
    assert office.settled == ["first", *names]


def test_many_threads_have_each_of_their_jobs_recorded_and_settled_once(
    office: Office, pool: ThreadPoolExecutor
) -> None:
    names = [[f"{thread}/{number}" for number in range(200)] for thread in range(8)]
    for one in [pool.submit(office.add, *some) for some in names]:
        one.result(LIMIT)
    everything = sorted(name for some in names for name in some)
    until(lambda: len(office.settled) == len(everything), "the last are recorded by whoever recorded then")
    assert sorted(office.settled) == everything
    assert sorted(name for call in office.calls for name in call) == everything


# ---- what goes wrong


def breaks_off() -> Steps[None]:
    yield Record(lease("bad"), Completed(b""))
    raise RuntimeError("a mistake after the record")


def test_an_outage_is_waited_out_once_for_all(office: Office, pool: ThreadPoolExecutor) -> None:
    names = [f"job-{number}" for number in range(8)]
    with office.busy(pool):
        office.add(*names)
        office.fails = [None, AWAY, AWAY, AWAY]
    assert office.calls == [["first"], names, names, names, names]
    assert office.pauses == 3, "one waits on behalf of all"
    assert office.settled == ["first", *names]
    assert office.told == dict.fromkeys(["first", *names], True)


def test_an_outage_that_nobody_waits_out_is_told_to_all_at_once(office: Office, pool: ThreadPoolExecutor) -> None:
    names = [f"job-{number}" for number in range(8)]
    with office.busy(pool):
        office.add(*names)
        office.over.set()  # the worker stops, and running jobs have had their time
        office.fails = [None, AWAY, AWAY, *[AWAY] * 20]
    assert len(office.calls) == 3, "each call may last for two of the store's time-outs"
    assert office.settled == ["first", *names]
    assert {str(told) for told in office.told.values()} == {"True", "the store is away"}


def test_the_record_that_is_bad_harms_its_own_job_only(office: Office, pool: ThreadPoolExecutor) -> None:
    office.bad["b"] = RecordUnreadable("no record")
    with office.busy(pool):
        office.add("a", "b", "c")
    assert office.told == {"first": True, "a": True, "b": office.bad["b"], "c": True}
    assert office.settled == ["first", "a", "b", "c"]
    assert len(office.calls) == 2


def test_a_group_that_fails_by_a_mistake_is_recorded_one_by_one(office: Office, pool: ThreadPoolExecutor) -> None:
    mistake = RuntimeError("whichever of them it is")
    with office.busy(pool):
        office.add("a")
        office.recorder.add(office.end("bad", breaks_off()))
        office.add("b")
        office.fails = [None, mistake, None, mistake]
    assert office.calls == [["first"], ["a", "bad", "b"], ["a"], ["bad"], ["b"]]
    assert office.told == dict.fromkeys(["first", "a", "b"], True)
    assert office.settled == ["first", "a", "bad", "b"]


def test_a_path_that_breaks_off_harms_no_other_and_its_delivery_is_settled(
    office: Office, pool: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    with office.busy(pool):
        office.add("a")
        office.recorder.add(office.end("bad", breaks_off()))
        office.add("b")
    assert office.settled == ["first", "a", "bad", "b"], "what becomes of it is its end's affair"
    assert office.told == dict.fromkeys(["first", "a", "b"], True)
    assert "a job's path has broken off" in caplog.text


def test_a_settlement_that_fails_harms_no_other(
    office: Office, pool: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    def fails() -> None:
        raise ConnectionError("the broker has hung up")

    with office.busy(pool):
        office.add("a")
        office.recorder.add(office.end("bad", settle=fails))
        office.add("b")
    assert office.settled == ["first", "a", "b"]
    assert "a delivery could not be settled" in caplog.text
    office.add("later")
    assert office.settled[-1] == "later"


def test_a_path_may_record_something_else_after_an_error(office: Office) -> None:
    def second_thoughts() -> Steps[None]:
        try:
            yield Record(lease("a"), Completed(b""))
        except RecordUnreadable:
            office.told["a"] = yield Record(lease("a again"), Released())

    office.bad["a"] = RecordUnreadable("no record")
    office.recorder.add(office.end("a", second_thoughts()))
    assert (office.calls, office.told, office.settled) == ([["a"], ["a again"]], {"a": True}, ["a"])


def test_whoever_is_torn_out_of_a_group_does_not_lead_for_ever() -> None:
    @contextmanager
    def is_torn_out() -> Iterator[Callable[[], None]]:
        yield lambda: None
        for _ in exits:
            raise KeyboardInterrupt

    exits = iter([1])
    office = Office(together=is_torn_out)
    with pytest.raises(KeyboardInterrupt):
        office.add("a")
    office.add("b")
    assert office.settled == ["a", "b"]


def test_a_mistake_around_a_group_leaves_nobody_waiting(pool: ThreadPoolExecutor) -> None:
    @contextmanager
    def fails() -> Iterator[Callable[[], None]]:
        yield lambda: None
        raise RuntimeError("a mistake")

    office = Office(together=fails)
    with office.busy(pool):
        office.add("a", "b")
    until(lambda: len(office.settled) == 3, "the others are recorded by the same thread, though it met a mistake")
    office.add("c")
    assert office.settled == ["first", "a", "b", "c"]


# ---- backpressure


def test_whoever_brings_more_than_may_wait_waits_with_it(pool: ThreadPoolExecutor) -> None:
    office = Office(most=3)
    with office.busy(pool):
        office.add("a", "b", "c")
        late = pool.submit(office.add, "late")
        with pytest.raises(TimeoutError):
            late.result(0.1)
    late.result(LIMIT)
    until(lambda: len(office.settled) == 5, "all are recorded")
    assert office.settled == ["first", "a", "b", "c", "late"]


def test_whoever_waits_with_an_end_goes_on_as_soon_as_there_is_room(pool: ThreadPoolExecutor) -> None:
    waited = 0.0
    for _ in range(5):
        office = Office(most=1)
        with office.busy(pool):
            office.add("a")
            late = pool.submit(office.add, "late")
            until(lambda: office.recorder._room._waiters, "it waits")  # type: ignore[attr-defined]  # noqa: B023  a condition's, now
        began = time.monotonic()
        late.result(LIMIT)
        waited += time.monotonic() - began
    assert waited < 3, "woken, and not by looking again after a second"


# ---- the log


class Stream(io.StringIO):
    """A log that notes each write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []
        self.error: Exception | None = None

    def write(self, text: str) -> int:
        if self.error is not None:
            raise self.error
        self.writes.append(text)
        return len(text)


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Stream:
    made = Stream()
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(logging.getLogger(), "handlers", [logs._Handler(made)])
    return made


@pytest.fixture
def writing(stream: Stream) -> Office:
    return Office(together=logs.together)


def test_what_a_group_logs_is_written_in_one_piece_after_its_record(
    writing: Office, stream: Stream, pool: ThreadPoolExecutor
) -> None:
    with writing.busy(pool):
        writing.add("a", "b", "c")
        assert stream.writes == []
    assert stream.writes == ["end of first\n", "end of a\nend of b\nend of c\n"]


def test_what_others_log_meanwhile_is_written_at_once(
    writing: Office, stream: Stream, pool: ThreadPoolExecutor
) -> None:
    with writing.busy(pool):
        log.info("from another thread")
        assert stream.writes == ["from another thread\n"]


def test_what_was_logged_is_written_before_a_pause(writing: Office, stream: Stream) -> None:
    def before() -> None:
        seen.append("".join(stream.writes))

    seen: list[str] = []
    writing.at_pause, writing.fails = before, [AWAY]
    writing.add("a")
    (text,) = seen
    assert "the store is away; jobs wait for it" in text
    assert "end of a" not in text
    assert "".join(stream.writes) == f"{text}answers again; jobs go on\nend of a\n", "nothing is written twice"


def test_a_log_that_cannot_be_written_harms_no_job(writing: Office, stream: Stream, pool: ThreadPoolExecutor) -> None:
    stream.error = OSError("no space left on device")
    with writing.busy(pool):
        writing.add("a", "b")
        writing.fails = [None, AWAY]  # what is logged is written before the pause, too
    assert writing.told == dict.fromkeys(["first", "a", "b"], True)
    assert writing.settled == ["first", "a", "b"]
    stream.error = None
    writing.add("c")
    assert stream.writes == ["end of c\n"]


def test_a_thread_says_that_it_waits_before_each_group_that_it_records() -> None:
    office, told = Office(), []
    recorder = Recorder(lambda effect: office._perform(effect), waits=lambda: told.append(len(office.calls)))
    recorder.add(office.end("a"))
    assert (told, office.calls) == ([0], [["a"]])
    recorder.add(office.end("b"))
    assert told == [0, 1]
