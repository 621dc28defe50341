"""A job that does not end after its interrupt is reported, also where its process must not be replaced."""

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from jobkit import telemetry
from jobkit.errors import TimeLimitExceeded
from jobkit.interrupts import Interrupts
from jobkit.middleware import stuck_jobs
from jobkit.middleware.stuck_jobs import Replacement, StuckJobs


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)


@pytest.fixture
def interrupts() -> Interrupts:
    return Interrupts()


@pytest.fixture
def watching(interrupts: Interrupts, monkeypatch: pytest.MonkeyPatch) -> Iterator[StuckJobs]:
    """It looks often, and reports after a moment instead of 5 s."""
    monkeypatch.setattr(stuck_jobs, "REPORT_AFTER", 0.05)
    monkeypatch.setattr(stuck_jobs, "_LOOK", 0.02)
    middleware, nobody = StuckJobs(interrupts), Any
    middleware.after_worker_boot(nobody, nobody)  # type: ignore[arg-type]  # not used without a replacement
    yield middleware
    middleware.after_worker_shutdown(nobody, nobody)  # type: ignore[arg-type]


def wait_in_a_lock(gate: threading.Lock) -> None:
    gate.acquire()


def test_a_job_that_waits_for_a_lock_is_reported_once_with_its_stack(
    interrupts: Interrupts, watching: StuckJobs, caplog: pytest.LogCaptureFixture
) -> None:
    gate = threading.Lock()
    gate.acquire()

    def run() -> None:
        with pytest.raises(TimeLimitExceeded):
            interrupts.run(job, limit=0.05)

    def job() -> None:
        wait_in_a_lock(gate)
        spin()

    def spin() -> None:
        while True:
            pass

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: bool(caplog.records))
    time.sleep(0.2)  # for a second report, which must not come
    gate.release()
    thread.join(10)
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "TimeLimitExceeded" in record.getMessage()
    assert "wait_in_a_lock" in vars(record)["stack"]


def test_a_job_that_ends_after_its_interrupt_is_not_reported(
    interrupts: Interrupts, watching: StuckJobs, caplog: pytest.LogCaptureFixture
) -> None:
    def spin() -> None:
        while True:
            pass

    for _ in range(5):
        with pytest.raises(TimeLimitExceeded):
            interrupts.run(spin, limit=0.02)
    time.sleep(0.2)
    assert not caplog.records


def test_a_job_that_outlasts_the_replacement_of_its_process_is_a_problem(
    interrupts: Interrupts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stuck_jobs, "STOP_MARGIN", timedelta(seconds=0.02))
    middleware = StuckJobs(interrupts, Replacement(timedelta(seconds=0.05), 0.05, lambda _lease: None))
    alone, gate = StuckJobs(interrupts), threading.Lock()
    gate.acquire()

    def run() -> None:
        with suppress(TimeLimitExceeded):
            interrupts.run(lambda: wait_in_a_lock(gate), limit=0.02)

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: bool(middleware.problems()))
    (problem,) = middleware.problems()
    assert alone.problems() == [], "an embedded worker is not replaced"
    gate.release()
    thread.join(10)
    assert "and this process could not be replaced" in problem
    assert middleware.problems() == []


def test_stuck_jobs_are_counted_by_queue_actor_and_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = InMemoryMetricReader()
    meter = MeterProvider([reader]).get_meter("jobkit")
    monkeypatch.setattr(telemetry, "_stuck", meter.create_counter("jobkit.jobs.stuck"))
    telemetry.job_stuck("email", "send_email", "TimeLimitExceeded")
    data = reader.get_metrics_data()
    assert data is not None
    (point,) = data.resource_metrics[0].scope_metrics[0].metrics[0].data.data_points
    assert dict(point.attributes or {}) == {
        "messaging.destination.name": "email",
        "jobkit.actor": "send_email",
        "error.type": "TimeLimitExceeded",
    }


LOOKS = """
import faulthandler, gc, sys, threading
from jobkit.middleware.stuck_jobs import frame_of

faulthandler.dump_traceback_later(float(sys.argv[2]), exit=True)
look = {"ours": frame_of, "python's": lambda thread: sys._current_frames().get(thread)}[sys.argv[1]]

class Cycle:
    def __init__(self):
        self.itself, self.local = self, threading.local()
        self.local.value = 1

def look_while_garbage_waits():
    running, over = threading.Event(), threading.Event()

    def wait():
        running.set()
        over.wait()

    threads = [threading.Thread(target=wait, daemon=True) for _ in range(5)]
    for thread in threads:
        thread.start()
    running.wait(10)
    gc.disable()
    garbage = [Cycle() for _ in range(20)]
    del garbage
    gc.set_threshold(1, 1, 1)
    gc.enable()
    frame = look(threads[0].ident)
    assert gc.isenabled() and frame is not None
    gc.set_threshold(700, 10, 10)
    over.set()
    del frame
    for thread in threads:
        thread.join()

for _ in range(50):
    look_while_garbage_waits()
gc.disable()
frame_of(threading.get_ident())
assert not gc.isenabled()
print("it goes on")
"""


@pytest.mark.parametrize(
    "whose",
    [
        "ours",
        pytest.param(
            "python's",
            marks=pytest.mark.skipif(sys.version_info >= (3, 12), reason="collects between two instructions only"),
        ),
    ],
)
def test_a_look_at_the_frames_of_other_threads_does_not_freeze_the_process_while_garbage_is_collected(
    whose: str,
) -> None:
    limit = "20" if whose == "ours" else "3"  # seconds; a tenth of one is enough
    command = [sys.executable, "-c", LOOKS, whose, limit]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout.strip() == "it goes on") is (whose == "ours"), done.stderr
