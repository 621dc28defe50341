"""Which processes a worker consists of is the same on every Python."""

from pathlib import Path

from process_table import children, descendants
from worker_process import WorkerProcess


def test_each_worker_process_is_one_command_and_one_fork(tmp_path: Path, vhost_url: str, redis_url: str) -> None:
    environment = {"JOBKIT_BROKER_URL": vhost_url, "JOBKIT_STORE_URL": redis_url}
    with WorkerProcess(tmp_path, environment, processes=2, supervised=True) as worker:
        commands = worker.children
        assert len(commands) == 2
        assert [len(descendants(command)) for command in commands] == [1, 1]


def test_the_worker_processes_of_the_stock_command_are_told_from_those_of_multiprocessing(
    tmp_path: Path, vhost_url: str, redis_url: str
) -> None:
    environment = {"JOBKIT_BROKER_URL": vhost_url, "JOBKIT_STORE_URL": redis_url}
    with WorkerProcess(tmp_path, environment, processes=2) as worker:
        assert {entry.pid for entry in worker.ledger.entries("open")} == set(worker.children)
        assert all(children(pid) == [] for pid in worker.children)
