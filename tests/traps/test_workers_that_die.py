"""Trap 11: a job kills the process that runs it, again and again."""

import os
import signal
import time
from pathlib import Path

from ledger import Ledger
from queues import depth, message_body, publish, wait_for_dead_letter
from worker_process import WorkerProcess

BOOT = 60  # seconds: Dramatiq waits half a minute for the start of a process that dies just then


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
