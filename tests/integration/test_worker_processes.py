"""Which processes a worker consists of is the same on every Python."""

import subprocess
import sys
from pathlib import Path

import pytest
from process_table import children, descendants
from worker_process import WorkerProcess


def test_a_worker_is_its_supervisor_and_its_worker_processes(tmp_path: Path, vhost_url: str, redis_url: str) -> None:
    environment = {"JOBKIT_BROKER_URL": vhost_url, "JOBKIT_STORE_URL": redis_url}
    with WorkerProcess(tmp_path, environment, processes=2, supervised=True) as worker:
        assert {entry.pid for entry in worker.ledger.entries("open")} == set(worker.children)
        assert len(worker.children) == 2
        assert all(descendants(pid) == [] for pid in worker.children)


def test_the_worker_processes_of_the_stock_command_are_told_from_those_of_multiprocessing(
    tmp_path: Path, vhost_url: str, redis_url: str
) -> None:
    environment = {"JOBKIT_BROKER_URL": vhost_url, "JOBKIT_STORE_URL": redis_url}
    with WorkerProcess(tmp_path, environment, processes=2) as worker:
        assert {entry.pid for entry in worker.ledger.entries("open")} == set(worker.children)
        assert all(children(pid) == [] for pid in worker.children)


@pytest.mark.parametrize("service", ["email", "images", "etl", "inference"])
def test_the_worker_processes_of_each_service_are_forks_of_one_thread(service: str, tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from jobkit.cli.starting import Fork, native_threads, starts\n"
        "from jobkit.cli.worker import _settings_of\n"
        "from jobkit.cli.worker_process import Work\n"
        "start = starts(Work(sys.argv[1], (), 2, 1000), preloads=_settings_of(sys.argv[1]).preloads)\n"
        "assert isinstance(start, Fork), start\n"
        "assert native_threads() == 1\n"
        "assert {'polars', 'pyvips', 'numpy'}.isdisjoint(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, service], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
