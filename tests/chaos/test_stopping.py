"""What becomes of jobs when their worker is told to stop, or one of its processes dies."""

import os
import signal
import time
from pathlib import Path

import pytest
from ledger import Ledger
from probe_service import Probe
from queues import wait_until_empty
from worker_process import WorkerProcess

from jobkit.producer import Producer
from jobkit.settings import EXIT_MISCONFIGURED
from local_stack.redis import Redis

#: Seconds: longer than any test waits, so that a job which ended was not one that its lease set free.
LEASE = "60"


@pytest.fixture
def environment(vhost_url: str, redis_url: str) -> dict[str, str]:
    return {
        "JOBKIT_BROKER_URL": vhost_url,
        "JOBKIT_STORE_URL": redis_url,
        "JOBKIT_LEASE_SECONDS": LEASE,
        "PROBE_STOP_GRACE_SECONDS": "40",
        "PROBE_STOP_LIMIT_SECONDS": "20",
    }


def test_prefetched_jobs_run_elsewhere_long_before_the_running_ones_end(
    tmp_path: Path, environment: dict[str, str], producer: Producer, ledger: Ledger
) -> None:
    waiting = [f"waiting-{n}" for n in range(14)]
    with WorkerProcess(tmp_path, environment, threads=4, name="first") as first:
        producer.send_many(Probe(name=f"running-{n}", seconds=8) for n in range(4))
        ledger.wait(lambda log: len(log.entries("start")) == 4, what="the start of the long jobs")
        # Four for each thread may be held, so twelve of these are taken ahead and two wait at the broker.
        producer.send_many(Probe(name=name) for name in waiting)
        with WorkerProcess(tmp_path, environment, threads=4, name="second"):
            ledger.wait_for("end", *waiting[12:])
            assert not ledger.counts("start")[waiting[0]], "it is held by the first worker, behind its long jobs"
            asked = time.time()
            first.signal(signal.SIGTERM)
            ledger.wait_for("end", *waiting, limit=10)
            assert first.wait(20) == 0
    taken_over = max(entry.at for entry in ledger.entries("start") if entry.name in waiting) - asked
    assert taken_over < 2, "a second on a machine that has nothing else to do; the running jobs took longer"
    assert set(ledger.counts("start").values()) == {1}
    assert ledger.counts("end") == ledger.counts("start")


@pytest.mark.parametrize(
    "job",
    [{"seconds": 6}, {"then": "block", "once": True}, {"then": "hang in a pool", "once": True}],
    ids=["interrupted", "out of reach", "with threads of its own"],
)
def test_a_job_that_runs_at_the_stop_limit_is_handed_back_with_its_attempts(
    tmp_path: Path, environment: dict[str, str], producer: Producer, ledger: Ledger, job: dict[str, object]
) -> None:
    settings = {**environment, "PROBE_STOP_LIMIT_SECONDS": "1"}
    with WorkerProcess(tmp_path, settings, supervised=True, name="first") as first:
        producer.send(Probe.model_validate({"name": "long", **job}))
        ledger.wait_for("start", "long")
        asked = time.monotonic()
        assert first.stop() == 0
        assert time.monotonic() - asked < 10
        assert not ledger.counts("end")["long"]
    with WorkerProcess(tmp_path, environment, name="second"):
        ledger.wait_for("end", "long")
    assert [entry.attempt for entry in ledger.entries("start")] == [1, 1]


def test_a_process_that_dies_is_replaced_while_the_others_go_on(
    tmp_path: Path, environment: dict[str, str], producer: Producer, ledger: Ledger
) -> None:
    with WorkerProcess(tmp_path, environment, processes=2, threads=1, supervised=True) as worker:
        victim, survivor = (entry.pid for entry in ledger.entries("open"))
        producer.send(Probe(name="before", seconds=3))
        ledger.wait_for("start", "before")
        (busy,) = (entry.pid for entry in ledger.entries("start"))
        victim = victim if survivor == busy else survivor
        os.kill(victim, signal.SIGKILL)
        ledger.wait(lambda log: len(log.entries("open")) == 3, what="the start of another process")
        producer.send_many(Probe(name=f"after-{n}", seconds=0.2) for n in range(8))
        ledger.wait_for("end", "before", *(f"after-{n}" for n in range(8)))
        assert "a worker process has died" in worker.output()
        assert worker.stop() == 0
    workers = {entry.pid for entry in ledger.entries("end")}
    assert len(workers) == 2
    assert busy in workers
    assert victim not in workers
    assert ledger.counts("start")["before"] == 1
    assert len(ledger.entries("close")) == 2, "both closed their resources"


def test_a_worker_that_cannot_run_is_not_started_again(tmp_path: Path, environment: dict[str, str]) -> None:
    too_long = {**environment, "PROBE_TIME_LIMIT": "600", "PROBE_STOP_GRACE_SECONDS": "60"}
    del too_long["PROBE_STOP_LIMIT_SECONDS"]
    worker = WorkerProcess(tmp_path, too_long, processes=2, supervised=True).start(wait=False)
    try:
        assert worker.wait() == EXIT_MISCONFIGURED
    finally:
        worker.kill()
    assert "PROBE_STOP_GRACE_SECONDS: 60 s is too short" in worker.output()


def test_a_worker_that_is_stopped_while_it_starts_ends_well(tmp_path: Path, environment: dict[str, str]) -> None:
    worker = WorkerProcess(tmp_path, environment, processes=2, supervised=True).start(wait=False)
    try:
        worker.ledger.wait(lambda _: len(worker.children) == 2, what="the start of two processes")
        assert worker.stop() == 0
    finally:
        worker.kill()


def test_a_worker_whose_resources_do_not_close_ends_within_its_grace(
    tmp_path: Path, environment: dict[str, str], ledger: Ledger
) -> None:
    settings = {**environment, "PROBE_STOP_GRACE_SECONDS": "6", "PROBE_HANG_AT_CLOSE": "1"}
    settings["PROBE_STOP_LIMIT_SECONDS"] = "0"
    with WorkerProcess(tmp_path, settings, supervised=True) as worker:
        assert worker.stop(limit=8) == 0
    assert ledger.entries("close")


def test_a_worker_whose_resources_do_not_open_ends_within_its_grace(
    tmp_path: Path, environment: dict[str, str], ledger: Ledger
) -> None:
    settings = {**environment, "PROBE_STOP_GRACE_SECONDS": "6", "PROBE_HANG_AT_OPEN": "1"}
    settings["PROBE_STOP_LIMIT_SECONDS"] = "0"
    worker = WorkerProcess(tmp_path, settings, supervised=True).start(wait=False)
    try:
        ledger.wait(lambda log: bool(log.entries("opening")), what="the start of the worker")
        assert worker.stop(limit=8) == 0
    finally:
        worker.kill()


def test_a_frozen_store_does_not_keep_a_stopping_worker(
    tmp_path: Path, environment: dict[str, str], producer: Producer, ledger: Ledger, redis_server: Redis
) -> None:
    # It holds what it is asked until the client's time-out, for each lease in turn: down, it would refuse at once.
    settings = {**environment, "JOBKIT_LEASE_SECONDS": "6", "JOBKIT_STORE_TIMEOUT_SECONDS": "1"}
    settings["PROBE_STOP_LIMIT_SECONDS"] = "1"
    names = [f"job-{n}" for n in range(8)]
    with WorkerProcess(tmp_path, settings, threads=8, supervised=True, name="first") as first:
        producer.send_many(Probe(name=name, then="block", once=True) for name in names)
        ledger.wait(lambda log: len(log.entries("start")) == 8, what="the start of the jobs")
        redis_server.pause()
        try:
            assert first.stop(limit=9) == 0, "a second for the jobs, five to end, and some for a busy machine"
        finally:
            redis_server.resume()
    with WorkerProcess(tmp_path, settings, threads=8, name="second"):
        ledger.wait_for("end", *names)
    assert ledger.counts("start") == dict.fromkeys(names, 2)


def test_a_worker_that_is_told_to_start_anew_and_then_to_stop_sees_its_jobs_through(
    tmp_path: Path, environment: dict[str, str], producer: Producer, ledger: Ledger
) -> None:
    with WorkerProcess(tmp_path, environment, supervised=True) as worker:
        producer.send(Probe(name="long", seconds=4))
        ledger.wait_for("start", "long")
        worker.signal(signal.SIGHUP)
        ledger.wait(lambda _: "Shutting down" in worker.output(), what="the worker's word")
        worker.signal(signal.SIGTERM)
        assert worker.wait(20) == 0
    assert ledger.counts("end") == {"long": 1}


def test_a_worker_that_is_told_to_start_anew_runs_its_next_jobs_in_other_processes(
    tmp_path: Path, environment: dict[str, str], producer: Producer, ledger: Ledger
) -> None:
    with WorkerProcess(tmp_path, environment, processes=2, supervised=True) as worker:
        producer.send(Probe(name="long", seconds=2))
        ledger.wait_for("start", "long")
        worker.signal(signal.SIGHUP)
        ledger.wait(lambda log: len(log.entries("open")) == 4, what="the start of other processes")
        ledger.wait(lambda log: len(log.entries("close")) == 2, what="the end of the first ones")
        producer.send(Probe(name="after"))
        ledger.wait_for("end", "long", "after")
        assert "a worker process has died" not in worker.output()
        assert worker.stop() == 0
    assert ledger.counts("start") == {"long": 1, "after": 1}
    (before,), (after,) = ([e.pid for e in ledger.entries("end") if e.name == name] for name in ("long", "after"))
    assert before != after


def test_the_worker_processes_of_a_supervisor_that_was_killed_see_their_jobs_through_and_stop(
    tmp_path: Path, environment: dict[str, str], producer: Producer, ledger: Ledger
) -> None:
    with WorkerProcess(tmp_path, environment, processes=2, threads=1, supervised=True) as worker:
        orphans = worker.children
        producer.send(Probe(name="long", seconds=2))
        ledger.wait_for("start", "long")
        worker.signal(signal.SIGKILL)
        ledger.wait(lambda log: set(log.counts("close")) == set(map(str, orphans)), what="the orphans' end")
    assert ledger.counts("end") == {"long": 1}


def test_jobs_that_end_while_the_store_is_away_and_the_worker_stops_are_recorded(
    tmp_path: Path, environment: dict[str, str], producer: Producer, ledger: Ledger, redis_server: Redis
) -> None:
    names = [f"job-{n}" for n in range(4)]
    with WorkerProcess(tmp_path, environment, threads=4, name="first") as first:
        producer.send_many(Probe(name=name, seconds=2) for name in names)
        ledger.wait(lambda log: len(log.entries("start")) == 4, what="the start of the jobs")
        first.signal(signal.SIGTERM)
        redis_server.kill()
        ledger.wait_for("end", *names)
        ledger.wait(lambda _: "jobs wait for it" in first.output(), what="the worker's word that the store is away")
        redis_server.start()
        assert first.wait(20) == 0
    with WorkerProcess(tmp_path, environment, name="second"):
        producer.send(Probe(name="after"))
        ledger.wait_for("end", "after")
        wait_until_empty(environment["JOBKIT_BROKER_URL"], "probe")
    assert set(ledger.counts("start").values()) == {1}


@pytest.mark.parametrize("upward", [False, True], ids=["parents first", "parents last"])
@pytest.mark.parametrize("pause", [0.0, 0.02, 0.3], ids=["at once", "20 ms apart", "300 ms apart"])
def test_a_sigterm_to_the_whole_control_group_is_one_request_to_stop(
    tmp_path: Path, environment: dict[str, str], producer: Producer, ledger: Ledger, pause: float, upward: bool
) -> None:
    with WorkerProcess(tmp_path, environment, processes=2, supervised=True) as worker:
        producer.send_many(Probe(name=f"job-{n}", seconds=3) for n in range(2))
        ledger.wait(lambda log: len(log.entries("start")) == 2, what="the start of the jobs")
        worker.signal_all(signal.SIGTERM, pause, upward=upward)
        assert worker.wait(15) == 0
    assert ledger.counts("end") == {"job-0": 1, "job-1": 1}


def test_a_sigterm_to_the_whole_control_group_is_one_request_to_stop_under_dramatiqs_own_command(
    tmp_path: Path, environment: dict[str, str], producer: Producer, ledger: Ledger
) -> None:
    with WorkerProcess(tmp_path, environment) as worker:
        producer.send(Probe(name="job", seconds=4))
        ledger.wait_for("start", "job")
        worker.signal_all(signal.SIGTERM, 0.1)
        assert worker.wait(15) == 0
    assert ledger.counts("end") == {"job": 1}


def test_a_sigterm_to_the_whole_control_group_is_one_request_where_a_server_process_starts_the_worker(
    tmp_path: Path, environment: dict[str, str], producer: Producer, ledger: Ledger
) -> None:
    # Python 3.14's default under Dramatiq's own command: the worker process is no child of Dramatiq's process any more.
    (tmp_path / "sitecustomize.py").write_text("import multiprocessing as m; m.set_start_method('forkserver')")
    worker = WorkerProcess(tmp_path, environment)
    worker.environment["PYTHONPATH"] += f":{tmp_path}"
    with worker:
        producer.send(Probe(name="job", seconds=4))
        ledger.wait_for("start", "job")
        worker.signal_all(signal.SIGTERM)
        assert worker.wait(15) == 0
    assert ledger.counts("end") == {"job": 1}


def test_a_second_sigterm_to_the_whole_control_group_ends_the_worker_at_once(
    tmp_path: Path, environment: dict[str, str], producer: Producer, ledger: Ledger
) -> None:
    with WorkerProcess(tmp_path, environment, processes=2, supervised=True) as worker:
        producer.send_many(Probe(name=f"job-{n}", seconds=15) for n in range(2))
        ledger.wait(lambda log: len(log.entries("start")) == 2, what="the start of the jobs")
        worker.signal_all(signal.SIGTERM)
        ledger.wait(lambda _: worker.output().count("Shutting down") == 2, what="the workers' word")
        worker.signal_all(signal.SIGTERM)
        assert worker.wait(8) == 1
    assert not ledger.entries("end")


def test_a_sigterm_to_the_whole_control_group_of_a_worker_that_starts_ends_it_well(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    worker = WorkerProcess(tmp_path, environment, processes=2, supervised=True).start(wait=False)
    try:
        worker.ledger.wait(lambda _: len(worker.children) == 2, what="the start of two processes")
        worker.signal_all(signal.SIGTERM, 0.05)
        assert worker.wait(15) == 0
    finally:
        worker.kill()


def test_a_second_sigterm_ends_all_processes_at_once(
    tmp_path: Path, environment: dict[str, str], producer: Producer, ledger: Ledger
) -> None:
    with WorkerProcess(tmp_path, environment, processes=2, supervised=True) as worker:
        producer.send_many(Probe(name=f"job-{n}", seconds=15) for n in range(4))
        ledger.wait(lambda log: len(log.entries("start")) == 4, what="the start of the long jobs")
        worker.signal(signal.SIGTERM)
        ledger.wait(lambda _: worker.output().count("Shutting down") == 2, what="the workers' word")
        worker.signal(signal.SIGTERM)
        assert worker.wait(8) == 1
    assert not ledger.entries("end")
