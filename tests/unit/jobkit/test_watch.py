"""What watches a job's path may make mistakes: they harm neither the path nor other watchers."""

import logging
from collections.abc import Iterator

import pytest
from dramatiq import Message

from jobkit.execution import Execution
from jobkit.run.watch import Watcher, watching
from jobkit.store.base import JobKey


def execution() -> Execution:
    message: Message[object] = Message("work", "work", (), {}, {})
    return Execution(message, JobKey("work", "work", "a"), "here:1")


class Log:
    """Watchers, and what they have seen."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def good(self, name: str) -> Watcher:
        def watch(_execution: Execution) -> Iterator[None]:
            self.seen.append(f"{name} begins")
            yield
            self.seen.append(f"{name} ends")

        return watch


def fails_to_begin(_execution: Execution) -> Iterator[None]:
    raise RuntimeError("a mistake")
    yield


def fails_to_end(error: BaseException) -> Watcher:
    def watch(_execution: Execution) -> Iterator[None]:
        yield
        raise error

    return watch


def test_the_first_is_outermost() -> None:
    log = Log()
    with watching(log.good("a"), log.good("b"))(execution()):
        log.seen.append("the path")
    assert log.seen == ["a begins", "b begins", "the path", "b ends", "a ends"]


def test_one_that_cannot_begin_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    log = Log()
    with watching(log.good("a"), fails_to_begin, log.good("b"))(execution()):
        log.seen.append("the path")
    assert log.seen == ["a begins", "b begins", "the path", "b ends", "a ends"]
    assert "what watches jobs could not begin" in caplog.text


@pytest.mark.parametrize("error", [RuntimeError("a mistake"), SystemExit(3), KeyboardInterrupt()])
def test_whatever_one_raises_at_the_end_the_job_has_its_end(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    log = Log()
    with watching(log.good("a"), fails_to_end(error), log.good("b"))(execution()):
        log.seen.append("the path")
    assert log.seen == ["a begins", "b begins", "the path", "b ends", "a ends"]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
