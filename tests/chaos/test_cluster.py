"""A cluster of three RabbitMQ nodes: the one that leads a queue dies, and then the one that leads it next."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from cluster import SIZE, Cluster
from ledger import Ledger
from probe_service import Probe
from queues import wait_until_empty
from worker_process import WorkerProcess

from jobkit.errors import SendError
from jobkit.producer import Producer
from local_stack.rabbitmq import RabbitMQ

VHOST = "cluster"
LEASE = 3
#: Seconds between two sends, and of one job: two workers with four threads are busy half of the time.
BETWEEN = 0.05
WORK = 0.2
#: Seconds for which a producer tries to send one job: an election takes one, a busy machine may take more.
PATIENCE = 30.0
#: Jobs that end after a node died, before the next blow falls.
ENOUGH = 40


class Sending:
    """A producer that sends all the while: each third job fails once, each fifth is delayed by some seconds."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._ended = threading.Event()
        self.accepted: list[str] = []
        self.failing: set[str] = set()
        self.raised = 0

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Send until the block ends; what is no ``SendError`` is raised there."""
        with ThreadPoolExecutor(1) as pool, Producer(self._url, timeout=5) as producer:
            sending = pool.submit(self._send_all, producer)
            try:
                yield
            finally:
                self._ended.set()
                sending.result(60)

    def _send_all(self, producer: Producer) -> None:
        while not self._ended.wait(BETWEEN):
            number = len(self.accepted)
            job = Probe(name=f"job-{number}", seconds=WORK, then="return" if number % 3 else "fail", until_attempt=2)
            delay = timedelta(seconds=0 if number % 5 else 1 + number % 7)
            self._send(producer, job, delay)
            self.accepted.append(job.name)
            if not number % 3:
                self.failing.add(job.name)

    def _send(self, producer: Producer, job: Probe, delay: timedelta) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                producer.send(job, job_id=job.name, delay=delay)
            except SendError:
                self.raised += 1
                if time.monotonic() > deadline:
                    raise
            else:
                return


@pytest.fixture(scope="module")
def url(cluster: Cluster) -> str:
    return cluster.create_vhost(VHOST)


@pytest.fixture
def environment(url: str, redis_url: str) -> dict[str, str]:
    return {
        "JOBKIT_BROKER_URL": url,
        "JOBKIT_STORE_URL": redis_url,
        "JOBKIT_LEASE_SECONDS": str(LEASE),
        "JOBKIT_STORE_TIMEOUT_SECONDS": str(LEASE / 6),
    }


@pytest.mark.timeout(300)
def test_leaders_killed_in_mid_run_lose_nothing_and_repeat_nothing(
    cluster: Cluster, url: str, environment: dict[str, str], tmp_path: Path
) -> None:
    ledger, sending = Ledger(tmp_path / "ledger"), Sending(url)
    with (
        WorkerProcess(tmp_path, environment, name="one"),
        WorkerProcess(tmp_path, environment, name="two"),
    ):
        with sending.going_on():
            wait_for_more_ends(ledger)
            assert set(cluster.members(VHOST).values()) == {SIZE}, "every queue, those that delay too, is on all nodes"
            first = cluster.leader_of(VHOST, "probe")
            recovery = [kill(first, ledger)]
            cluster.start()
            second = cluster.leader_of(VHOST, "probe")
            recovery.append(kill(second, ledger))
            cluster.start()
        ledger.wait_for("end", *sending.accepted, limit=60)
        wait_until_empty(url.partition(",")[0], "probe")
    print(f"{len(sending.accepted)} jobs, {sending.raised} sends raised; no job started for {recovery} s")  # noqa: T201  for pytest -s
    assert first is not second
    assert sending.failing, "jobs that were retried are among them"
    assert ledger.counts("end") == dict.fromkeys(sending.accepted, 1)
    assert ledger.counts("start") == {name: 1 + (name in sending.failing) for name in sending.accepted}


def kill(node: RabbitMQ, ledger: Ledger) -> float:
    """Kill a node; return once many jobs have ended after that, with the longest wait for a job to start meanwhile."""
    killed = time.time()
    node.kill()
    wait_for_more_ends(ledger)
    starts = [killed, *(entry.at for entry in ledger.entries("start") if entry.at > killed)]
    return round(max(later - earlier for earlier, later in pairwise(starts)), 1)


def wait_for_more_ends(ledger: Ledger) -> None:
    expected = len(ledger.entries("end")) + ENOUGH
    ledger.wait(lambda log: len(log.entries("end")) >= expected, limit=60, what="the jobs after the last blow")
