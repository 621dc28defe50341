"""One system under one fault, on a virtual host, a store and a folder of its own."""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.parse import quote

from account import Account, settle
from clock import Clock
from cluster import Cluster
from faults import Fault
from ledger import Ledger
from proxy import Proxy
from strikes import Scene
from systems import THREADS, System
from worker_groups import Workers

from local_stack.errors import NodeFailed
from local_stack.rabbitmq import RabbitMQ
from local_stack.redis import Redis

WORKERS = 2
#: Seconds for which all jobs together keep the workers busy, however many there are: longer than the longest fault.
BUSY = 25.0
#: Seconds over which the second half of the jobs is sent: the workers never wait for it.
OVER = 15.0
#: Seconds. Short, so that what a killed worker held is run again within a minute; the default is 15.
LEASE = 5
#: Seconds until the fault strikes, and from its end until all is done: what is not done by then is called lost.
LIMIT = 90.0
#: Seconds without a line in the ledger before the broker's counters, up to five seconds old, are believed.
QUIET = 6.0
LOOK = 0.25
HERE = Path(__file__).parent
HARNESS = HERE.parents[1] / "harness"


def job_seconds(jobs: int) -> float:
    """How long one of so many jobs takes, on average."""
    return BUSY * WORKERS * THREADS / jobs


@dataclass(frozen=True)
class Nodes:
    """The backing services, which outlive every run. Where there is a cluster, it is the broker."""

    rabbitmq: RabbitMQ
    redis: Redis
    cluster: Cluster | None = None
    clock: Clock | None = None

    @property
    def broker(self) -> RabbitMQ | Cluster:
        """Where the jobs are sent."""
        return self.cluster or self.rabbitmq


class Run:
    """Sends, strikes, waits, and counts."""

    def __init__(self, system: System, fault: Fault, jobs: int, nodes: Nodes, folder: Path) -> None:
        self._system, self._fault, self._jobs, self._nodes, self._folder = system, fault, jobs, nodes, folder
        self._vhost = f"{system.name}-{fault.name}"
        self._ledger = Ledger(folder / "ledger")
        self._sent = Ledger(folder / "sent")

    def measure(self) -> Account:
        """Do it all; whatever happens, nothing that it started is left."""
        (self._folder / "failed").mkdir(parents=True)
        if self._nodes.clock is not None:
            (self._folder / "modules").mkdir()
            (self._folder / "modules/sitecustomize.py").symlink_to(HERE / "sleep_by_select.py")
        self._nodes.broker.start()
        self._nodes.redis.start()
        self._nodes.redis.flush()
        url = self._nodes.broker.create_vhost(self._vhost)
        with ExitStack() as stack:
            stack.callback(self._clear)
            proxy = stack.enter_context(Proxy(self._nodes.rabbitmq.ports["AMQP"])) if self._fault.proxied else None
            environment = self._environment(url, proxy)
            commands = [self._system.command(number) for number in range(WORKERS)]
            clock = self._nodes.clock.environment if self._nodes.clock else {}
            workers = stack.enter_context(Workers(commands, {**environment, **clock}, self._folder))
            sender = stack.enter_context(self._sending(environment))
            return self._strike(url, workers, sender, proxy)

    def _strike(self, url: str, workers: Workers, sender: subprocess.Popen[bytes], proxy: Proxy | None) -> Account:
        begun = self._until(lambda: len(self._ledger.entries("end")) >= self._jobs // 8)
        if not begun:
            raise SystemExit(f"{self._system.name} does not work even without a fault:\n{self._tail()}")
        nodes, trouble = self._nodes, self._folder / "trouble"
        scene = Scene(
            nodes.rabbitmq, nodes.redis, workers, self._vhost, trouble, proxy, cluster=nodes.cluster, clock=nodes.clock
        )
        self._fault.strike(scene)
        end = time.time()
        finished = self._until(lambda: sender.poll() is not None and self._is_over(end)) and sender.returncode == 0
        return settle(self._ledger, self._sent, workers.kills, end, url.partition(",")[0], finished=finished)

    def _is_over(self, fault_end: float) -> bool:
        """Nothing is in any queue, and nobody works."""
        try:
            quiet_since = max(fault_end, (self._folder / "ledger").stat().st_mtime)
            return time.time() - quiet_since > QUIET and self._waiting() == 0
        except (OSError, HTTPException, NodeFailed):  # the management API comes up after the broker
            return False

    def _waiting(self) -> float:
        answer = self._nodes.broker.call("GET", f"/api/queues/{quote(self._vhost, safe='')}")
        queues = answer if isinstance(answer, list) else []
        # A queue that the counters do not know yet, since its broker has just started, may hold anything.
        return float(sum(q.get("messages", math.inf) for q in queues if not q["name"].endswith((".dlq", ".XQ"))))

    def _until(self, condition: Callable[[], bool]) -> bool:
        deadline = time.monotonic() + LIMIT
        while not condition():
            if time.monotonic() > deadline:
                return False
            time.sleep(LOOK)
        return True

    @contextmanager
    def _sending(self, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
        plan = {**vars(self._fault.plan), "count": self._jobs, "seconds": job_seconds(self._jobs), "over": OVER}
        command = [sys.executable, "-W", "ignore", str(HERE / "sender.py"), self._system.module, json.dumps(plan)]
        with (self._folder / "sender.log").open("wb") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=self._folder)
        try:
            yield process
        finally:
            process.kill()
            process.wait(10)

    def _environment(self, url: str, proxy: Proxy | None) -> dict[str, str]:
        if proxy is not None:
            url = url.replace(f":{self._nodes.rabbitmq.ports['AMQP']}/", f":{proxy.port}/")
        return {
            **{k: v for k, v in os.environ.items() if not k.startswith(("JOBKIT_", "CELERY_", "SUITE_"))},
            "PYTHONPATH": os.pathsep.join(map(str, (HERE, HARNESS, self._folder / "modules"))),
            "PYTHONUNBUFFERED": "1",
            "SUITE_FOLDER": str(self._folder),
            "SUITE_EPOCH": str(time.time() - time.monotonic()),
            "JOBKIT_BROKER_URL": url,
            "JOBKIT_STORE_URL": self._nodes.redis.url,
            "JOBKIT_LEASE_SECONDS": str(LEASE),
            "JOBKIT_STORE_TIMEOUT_SECONDS": str(LEASE / 10),
        }

    def _clear(self) -> None:
        self._nodes.broker.start()
        self._nodes.broker.delete_vhost(self._vhost)

    def _tail(self) -> str:
        logs = [self._folder / "sender.log", self._folder / "worker.log"]
        return "\n".join(log.read_text(errors="replace")[-2000:] for log in logs if log.exists())
