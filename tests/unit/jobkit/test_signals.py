"""What a worker process makes of its signals, and what a process that a job has forked makes of them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from types import FrameType

import pytest

from jobkit.middleware.signals import HANDLED, HURRY, SAME_REQUEST, SUPERVISED, Word, listen

#: Forks a hundred times in a process that listens, and prints how the children ended and which signals stay blocked.
FORKS = """
import os, signal, time
from jobkit.middleware.signals import listen
def handler(number, frame): ...
handler.__module__ = "dramatiq.cli"
signal.signal(signal.SIGTERM, handler)
assert listen(lambda word: None)
ended = set()
for _ in range(100):
    child = os.fork()
    if child == 0:
        time.sleep(10)
        os._exit(0)
    os.kill(child, signal.SIGTERM)
    ended.add(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(ended, signal.pthread_sigmask(signal.SIG_BLOCK, []))
"""


class Worker:
    """Stands for Dramatiq's worker process: counts how often its handler is called, and leaves at the second time."""

    def __init__(self) -> None:
        self.words: list[Word] = []
        self.calls = 0

        def handler(_number: int, _frame: FrameType | None) -> None:
            self.calls += 1
            if self.calls > 1:
                sys.exit(1)

        handler.__module__ = "dramatiq.cli"
        signal.signal(signal.SIGTERM, handler)


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    """With the signals of this process, which it gets back; forks of other tests stay as they are."""
    before = {number: signal.getsignal(number) for number in HANDLED}
    monkeypatch.setattr(os, "register_at_fork", lambda **_: None)
    yield Worker()
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_process_that_is_not_of_dramatiqs_command_keeps_its_signals() -> None:
    before = [signal.getsignal(number) for number in HANDLED]
    assert not listen(lambda _: None)
    assert [signal.getsignal(number) for number in HANDLED] == before


def test_a_supervised_worker_is_hurried_by_its_supervisor_alone(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SUPERVISED, "1")
    clock = iter(range(0, 1000, 100))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    assert listen(worker.words.append)
    assert SUPERVISED not in os.environ, "programs that jobs start are not supervised"
    for _ in range(4):
        signal.raise_signal(signal.SIGTERM)
    assert worker.words == [Word.STOP] * 4
    signal.raise_signal(HURRY)
    assert worker.words[-1] is Word.NOW
    assert worker.calls == 1


def test_under_dramatiqs_own_command_a_second_sigterm_counts_when_it_comes_later_than_those_of_a_group(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([10.0, 10.0 + SAME_REQUEST, 10.1 + SAME_REQUEST])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    assert listen(worker.words.append)
    signal.raise_signal(signal.SIGHUP)
    for _ in range(3):
        signal.raise_signal(signal.SIGTERM)
    assert worker.words == [Word.STOP, Word.STOP, Word.STOP, Word.NOW]


def test_a_sigterm_that_dramatiq_has_taken_before_is_no_reason_to_leave_in_the_midst_of_the_start(
    worker: Worker,
) -> None:
    signal.raise_signal(signal.SIGTERM)
    assert listen(worker.words.append)
    signal.raise_signal(signal.SIGTERM)
    assert worker.words == [Word.STOP]


def test_a_forked_child_is_ended_by_a_sigterm_that_comes_at_once() -> None:
    done = subprocess.run([sys.executable, "-c", FORKS], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"{{{-signal.SIGTERM}}} set()\n"


def test_programs_of_jobs_do_not_ignore_sigint(worker: Worker) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as Dramatiq does
    assert listen(worker.words.append)
    assert callable(signal.getsignal(signal.SIGINT)), "a handler, which a program does not inherit"
    signal.raise_signal(signal.SIGINT)
    assert worker.words == []
