"""Trap 11: a job kills the process that runs it, again and again."""

import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest
from ledger import Ledger
from probe_service import Probe
from queues import depth, message_body, publish, wait_for_dead_letter
from sizes import LARGE, size
from worker_process import WorkerProcess

from jobkit.producer import Producer

KILLS = size(3, 21)

BOOT = 60  # seconds: Dramatiq waits half a minute for the start of a process that dies just then


def has_opened(processes: int, ledger: Ledger) -> bool:
    return len(ledger.entries("open")) >= processes


@pytest.fixture
def default_settings(vhost_url: str, redis_url: str) -> dict[str, str]:
    """All that can be left to its default is."""
    return {"JOBKIT_BROKER_URL": vhost_url, "JOBKIT_STORE_URL": redis_url}


def test_stock_stops_all_processes_when_one_has_died(tmp_path: Path, worker_settings: dict[str, str]) -> None:
    with WorkerProcess(tmp_path, worker_settings, module="stock_probe", processes=2) as worker:
        worker.ledger.wait(lambda _: "is booting up" in worker.output(), what="the parent's word that all have started")
        os.kill(worker.children[0], signal.SIGKILL)
        worker.wait()
        assert len(worker.ledger.entries("close")) == 1


def test_stock_does_not_count_a_crash(tmp_path: Path, worker_settings: dict[str, str], vhost_url: str) -> None:
    ledger = Ledger(tmp_path / "ledger")
    for runs in (1, 2, 3):
        with WorkerProcess(tmp_path, worker_settings, module="stock_probe") as worker:
            if runs == 1:
                publish(vhost_url, "probe", message_body(kwargs={"name": "poison", "then": "die"}))
            worker.wait(BOOT)
            assert ledger.counts("start")["poison"] == runs, "although its actor allows no retry"
    assert (depth(vhost_url, "probe"), depth(vhost_url, "probe.XQ")) == (1, 0), "it waits for the next worker"


def test_a_job_that_kills_its_workers_is_quarantined_and_the_others_finish(
    tmp_path: Path, worker_settings: dict[str, str], vhost_url: str
) -> None:
    brief = {**worker_settings, "JOBKIT_LEASE_SECONDS": "2", "JOBKIT_STORE_TIMEOUT_SECONDS": "0.3"}
    ledger = Ledger(tmp_path / "ledger")
    names = [f"good-{n}" for n in range(20)]
    deadline = time.monotonic() + 60
    with WorkerProcess(tmp_path, brief) as worker:
        publish(vhost_url, "probe", message_body(kwargs={"name": "poison", "then": "die"}))
        publish(vhost_url, "probe", *(message_body(kwargs={"name": name, "seconds": 0.05}) for name in names))
        ledger.wait(lambda log: log.counts("start")["poison"] >= 1 and not worker.alive)
    while ledger.counts("start")["poison"] < 3:
        assert time.monotonic() < deadline
        with WorkerProcess(tmp_path, brief) as worker:
            ledger.wait(lambda log: log.counts("start")["poison"] >= 3 or not worker.alive, limit=30)
    with WorkerProcess(tmp_path, brief):
        _, failure, _ = wait_for_dead_letter(vhost_url, "probe")
        ledger.wait_for("end", *names)
    assert failure.reason == "poison"
    assert ledger.counts("start")["poison"] == 3


@pytest.mark.prove("jobs of a killed worker process run elsewhere, within 1 s", size=f"{KILLS} kills")
def test_the_jobs_of_a_killed_process_run_elsewhere_at_once(
    tmp_path: Path, default_settings: dict[str, str], producer: Producer, ledger: Ledger
) -> None:
    waits = []
    with WorkerProcess(tmp_path, default_settings, processes=2, supervised=True):
        for kill in range(KILLS):
            name = f"unlucky-{kill}"
            producer.send(Probe(name=name, then="hang", until_attempt=2))
            ledger.wait_for("start", name)
            (victim,) = (entry.pid for entry in ledger.entries("start") if entry.name == name)
            processes = len(ledger.entries("open")) + 1
            killed_at = time.time()
            os.kill(victim, signal.SIGKILL)
            ledger.wait_for("end", name, limit=20)
            waits.append(max(entry.at for entry in ledger.entries("start") if entry.name == name) - killed_at)
            ledger.wait(partial(has_opened, processes), what="another process")
    assert max(waits) <= (1.0 if LARGE else 5.0), waits


@pytest.mark.prove(
    "one poison job among 50 good ones: 5 s for these, 15 s to its dead letter", size="2 processes of 4 threads"
)
def test_a_poison_job_holds_up_no_other(
    tmp_path: Path, default_settings: dict[str, str], producer: Producer, vhost_url: str, ledger: Ledger
) -> None:
    names = [f"good-{n}" for n in range(50)]
    slack = 1 if LARGE else 5
    with WorkerProcess(tmp_path, default_settings, processes=2, threads=4, supervised=True):
        sent_at = time.monotonic()
        jobs = [Probe(name=name, seconds=0.05) for name in names]
        producer.send_many([*jobs[:10], Probe(name="poison", then="die"), *jobs[10:]])
        ledger.wait_for("end", *names, limit=5 * slack)
        good_after = time.monotonic() - sent_at
        _, failure, _ = wait_for_dead_letter(vhost_url, "probe")
        dead_after = time.monotonic() - sent_at
        assert depth(vhost_url, "probe.dlq") == 0, "no other died"
    assert failure.reason == "poison"
    ends = ledger.counts("end")
    assert set(ends) == set(names)
    # A kill may come between the end of a job and its record, of which the poison makes three.
    assert max(ends.values()) <= 2
    assert good_after <= 5 * slack
    assert dead_after <= 15 * slack
    print(f"the good ones were done after {good_after:.1f} s, the dead letter was there after {dead_after:.1f} s")  # noqa: T201
