"""What is recorded together."""

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from io import StringIO
from unittest.mock import Mock

import pytest

from jobkit.effects import Completed, Effect, Pause, Record, Records, Released, Steps, Walk, take
from jobkit.errors import StoreUnavailable
from jobkit.middleware import logs
from jobkit.patience import Patience, WorkerStopping
from jobkit.run.recorder import End, Recorder, commit
from jobkit.store.base import JobKey, Lease

LEASE = Lease(JobKey("work", "work", "id"), "owner:1", 1, 1)


class FullDisk(StringIO):
    def write(self, _text: str) -> int:
        raise OSError(28, "No space left on device")


class Store:
    """Away for the first question."""

    def __init__(self) -> None:
        self.is_away = True
        self.recorded: list[Sequence[Record]] = []

    def __call__(self, effect: Effect) -> object:
        if isinstance(effect, Pause):
            return False
        assert isinstance(effect, Records)
        if self.is_away:
            self.is_away = False
            raise StoreUnavailable("away")
        self.recorded.append(effect.records)
        return [True for _ in effect.records]


@pytest.fixture
def full_disk() -> Iterator[None]:
    root = logging.getLogger()
    before, handler = root.handlers[:], logs._Handler(FullDisk())
    root.handlers[:] = [handler]
    yield
    root.handlers[:] = before


@pytest.mark.usefixtures("full_disk")
def test_what_cannot_be_logged_does_not_keep_a_job_from_its_record() -> None:
    def path() -> Steps[bool]:
        logging.getLogger("test").error("a line that finds no room")
        answer: bool = yield from Patience(Mock(), Mock(is_set=lambda: False)).after(
            lambda: Record(LEASE, Completed(b""))
        )
        logging.getLogger("test").error("and another")
        return answer

    store, settled = Store(), Mock()
    recorder = Recorder(store, together=logs.together)
    for _ in range(2):
        way = Walk(path(), store)
        way.go_on(until=Record)
        recorder.add(End(way, settled))
        assert way.result is True
    assert len(store.recorded) == settled.call_count == 2


class Away:
    """A store that does not answer so many times; each pause takes a second."""

    def __init__(self, times: int, over: threading.Event) -> None:
        self.times, self.over = times, over
        self.now, self.calls = 0.0, 0

    def __call__(self, effect: Effect) -> object:
        if isinstance(effect, Pause):
            self.now += 1.0
            return self.over.is_set()
        assert isinstance(effect, Records)
        self.calls += 1
        if self.calls <= self.times:
            raise StoreUnavailable("away")
        self.recorded = effect.records
        return [True for _ in effect.records]


def retried(store: Away, patience: Patience, delay: float) -> Steps[str]:
    """What records a retry does, for a job whose copy arrives at a time that stands."""
    try:
        yield from patience.after(lambda: Record(LEASE, Released(timedelta(seconds=delay - store.now), counted=True)))
    except WorkerStopping:
        with suppress(StoreUnavailable):
            yield Record(LEASE, Released())
        return "handed back"
    return "recorded"


def brought(store: Away, over: threading.Event, *delays: float) -> tuple[list[End], list[Walk]]:
    ways = [Walk(retried(store, Patience(Mock(), over), delay), store) for delay in delays]
    for way in ways:
        way.go_on(until=Record)
    return [End(way, Mock()) for way in ways], ways


def test_one_waits_out_an_outage_for_all_and_each_says_anew_when_its_retry_is_due() -> None:
    over = threading.Event()
    store = Away(3, over)
    ends, ways = brought(store, over, 60.0, 30.0)
    take(commit(ends), store)
    assert store.now == 3.0, "one of them has waited"
    assert [record.end for record in store.recorded] == [
        Released(timedelta(seconds=57), counted=True),
        Released(timedelta(seconds=27), counted=True),
    ]
    assert [way.result for way in ways] == ["recorded", "recorded"]


def test_when_the_time_of_a_worker_is_over_in_an_outage_the_store_is_asked_no_more_for_many_than_for_one() -> None:
    over = threading.Event()
    over.set()
    store = Away(1_000, over)
    ends, ways = brought(store, over, *[60.0] * 16)
    take(commit(ends), store)
    assert store.calls <= 3, "each call may last for its time-outs"
    assert {way.result for way in ways} == {"handed back"}
