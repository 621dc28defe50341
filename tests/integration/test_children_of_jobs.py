"""Processes that jobs start: they end when their job ends them, and none of them acts as the worker."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from ledger import Ledger
from pool_service import Forking, Pooled
from process_table import pids
from queues import wait_for_dead_letter, wait_until_empty
from worker_process import WorkerProcess

from jobkit.producer import Producer

METHODS = pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])


@pytest.fixture
def start(tmp_path: Path, vhost_url: str, redis_url: str, ledger: Ledger) -> Iterator[Callable[..., WorkerProcess]]:
    def make(**settings: str) -> WorkerProcess:
        environment = {"JOBKIT_BROKER_URL": vhost_url, "JOBKIT_STORE_URL": redis_url, **settings}
        return WorkerProcess(tmp_path, environment, module="pool_service", threads=4)

    yield make
    for pid in children_left(ledger):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def children_left(ledger: Ledger) -> list[int]:
    """The children of jobs that still run."""
    started = {int(entry.name) for entry in ledger.entries("child")}
    return [pid for pid in pids() if pid in started]


@METHODS
def test_leaving_a_pool_ends_its_processes_after_success_failure_and_the_time_limit(
    start: Callable[..., WorkerProcess], producer: Producer, ledger: Ledger, method: str
) -> None:
    with start(PROBE_TIME_LIMIT="6"):
        producer.send_many(Pooled(name=then, method=method, then=then) for then in ("return", "fail", "wait"))
        ledger.wait_for("left", "return", "fail", "wait", limit=20)
        assert len(ledger.entries("child")) >= 6
        assert children_left(ledger) == []


@METHODS
def test_a_stopping_worker_hands_back_a_job_in_a_pool_and_the_processes_of_the_pool_end(
    start: Callable[..., WorkerProcess], producer: Producer, ledger: Ledger, method: str
) -> None:
    with start(PROBE_STOP_LIMIT_SECONDS="0") as worker:
        producer.send_many(Pooled(name=then, method=method, then=then) for then in ("wait", "block"))
        ledger.wait_for("start", "wait", "block")
        assert worker.stop(limit=10) == 0
        assert ledger.counts("left") == {"wait": 1}
        ledger.wait(lambda _: not children_left(ledger), limit=5, what="the end of the children")


@pytest.mark.parametrize(("then", "status"), [("return", 0), ("raise", 1)])
def test_a_forked_child_that_leaves_the_job_ends_and_settles_nothing(
    start: Callable[..., WorkerProcess], producer: Producer, ledger: Ledger, vhost_url: str, then: str, status: int
) -> None:
    with start() as worker:
        producer.send(Forking(name="parent", then=then))
        ledger.wait_for("end", "parent")
        wait_until_empty(vhost_url, "pooled")
        assert [entry.attempt for entry in ledger.entries("end")] == [status]
        assert "a forked child" in worker.output()


def test_a_forked_child_is_ended_by_sigterm_and_its_worker_goes_on(
    start: Callable[..., WorkerProcess], producer: Producer, ledger: Ledger
) -> None:
    with start() as worker:
        producer.send(Forking(name="parent", then="sleep"))
        ledger.wait_for("end", "parent", limit=10)
        assert [entry.attempt for entry in ledger.entries("end")] == [-signal.SIGTERM]
        assert "Stopping worker process" not in worker.output()


def test_a_job_whose_pool_has_failed_is_a_dead_letter_with_its_own_error(
    start: Callable[..., WorkerProcess], producer: Producer, vhost_url: str
) -> None:
    with start():
        producer.send(Pooled(name="fails", then="fail"))
        _, failure, _ = wait_for_dead_letter(vhost_url, "pooled")
        assert (failure.type, failure.message) == ("OSError", "one part has failed")
