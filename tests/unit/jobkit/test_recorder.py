"""What is recorded together."""

import logging
from collections.abc import Iterator, Sequence
from io import StringIO
from unittest.mock import Mock

import pytest

from jobkit.effects import Completed, Effect, Pause, Record, Records, Steps, Walk
from jobkit.errors import StoreUnavailable
from jobkit.middleware import logs
from jobkit.patience import Patience
from jobkit.run.recorder import End, Recorder
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
