"""Trap 12: a worker is told to stop while jobs run and others wait in it; and told again."""

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ledger import Ledger
from queues import depth, message_body, publish, wait_until_empty
from worker_process import WorkerProcess

LONG = 5.0  # seconds that a job runs which the worker lets finish: longer than a busy machine takes to start another
AT_ONCE = 4  # seconds: the worker's parent looks at its children once a second


@pytest.fixture
def start(tmp_path: Path, worker_settings: dict[str, str]) -> Callable[..., WorkerProcess]:
    def make(module: str, name: str) -> WorkerProcess:
        return WorkerProcess(tmp_path, worker_settings, module=module, threads=2, name=name)

    return make


def stop_with_waiting_jobs(module: str, start: Callable[..., WorkerProcess], url: str, ledger: Ledger) -> None:
    """Stop a worker in which two jobs run and two wait, while another worker has nothing to do."""
    with start(module, "first") as first:
        publish(url, "probe", *(message_body(kwargs={"name": f"job-{n}", "seconds": LONG}) for n in range(2)))
        ledger.wait(lambda log: len(log.entries("start")) == 2, what="the start of the long jobs")
        publish(url, "probe", *(message_body(kwargs={"name": f"waiting-{n}"}) for n in range(2)))
        ledger.wait(lambda _: depth(url, "probe") == 0, what="what the first worker has prefetched")
        with start(module, "second"):
            first.signal(signal.SIGTERM)
            ledger.wait_for("end", "waiting-0", "waiting-1", "job-0", "job-1")
            assert first.wait(15) == 0
    assert ledger.counts("start") == {"job-0": 1, "job-1": 1, "waiting-0": 1, "waiting-1": 1}
    assert ledger.counts("end") == ledger.counts("start")


def times(ledger: Ledger, event: str, prefix: str) -> list[float]:
    return sorted(entry.at for entry in ledger.entries(event) if entry.name.startswith(prefix))


def test_stock_keeps_the_waiting_jobs_until_the_running_ones_have_ended(
    start: Callable[..., WorkerProcess], vhost_url: str, ledger: Ledger
) -> None:
    stop_with_waiting_jobs("stock_probe", start, vhost_url, ledger)
    assert times(ledger, "start", "waiting")[0] > times(ledger, "end", "job")[-1]


def test_the_waiting_jobs_go_back_at_once_and_the_running_ones_finish(
    start: Callable[..., WorkerProcess], vhost_url: str, ledger: Ledger
) -> None:
    stop_with_waiting_jobs("probe_service", start, vhost_url, ledger)
    assert times(ledger, "end", "waiting")[-1] < times(ledger, "end", "job")[0]
    assert len(ledger.entries("close")) >= 1, "the worker closed its resources"


def stop_twice(worker: WorkerProcess, url: str, *jobs: dict[str, object]) -> None:
    """Tell a worker to stop, and again, while it runs jobs that do not end."""
    publish(url, "probe", *(message_body(kwargs=job) for job in jobs))
    worker.ledger.wait(lambda log: len(log.entries("start")) == len(jobs), what="the start of the jobs")
    worker.signal(signal.SIGTERM)
    worker.ledger.wait(lambda _: "Stopping worker process" in worker.output(), what="the worker's word")
    worker.signal(signal.SIGTERM)


def test_stock_hangs_after_a_second_sigterm_while_a_job_waits_for_threads_of_its_own(
    start: Callable[..., WorkerProcess], vhost_url: str
) -> None:
    with start("stock_probe", "first") as first:
        stop_twice(first, vhost_url, {"name": "stuck", "then": "hang in a pool"})
        first.ledger.wait(lambda _: "Killing worker process" in first.output(), what="the worker's second word")
        with pytest.raises(subprocess.TimeoutExpired):
            first.wait(AT_ONCE)


def insist(worker: WorkerProcess) -> None:
    """Ask again until it ends: what follows the first SIGTERM at once is taken for an echo of it."""
    deadline = time.monotonic() + AT_ONCE
    while worker.alive and time.monotonic() < deadline:
        worker.signal(signal.SIGTERM)
        time.sleep(0.2)
    worker.wait(1)


def test_a_second_sigterm_ends_the_worker_while_a_job_waits_for_threads_of_its_own(
    start: Callable[..., WorkerProcess], vhost_url: str
) -> None:
    with start("probe_service", "first") as first:
        stop_twice(first, vhost_url, {"name": "stuck", "then": "hang in a pool"})
        insist(first)


def test_a_second_sigterm_ends_the_worker_at_once_and_still_loses_nothing(
    start: Callable[..., WorkerProcess], vhost_url: str, ledger: Ledger
) -> None:
    with start("probe_service", "first") as first:
        stop_twice(first, vhost_url, *({"name": f"job-{n}", "then": "hang", "once": True} for n in range(2)))
        insist(first)
    assert ledger.entries("end") == []
    with start("probe_service", "second"):
        ledger.wait_for("end", "job-0", "job-1", limit=40)
        wait_until_empty(vhost_url, "probe")
    ended = sorted((entry.name, entry.attempt) for entry in ledger.entries("end"))
    assert ended == [("job-0", 1), ("job-1", 1)], "no attempt was used up"
