"""Redis behind Sentinel: a real Sentinel fails over, and its script moves the name to which the store connects."""

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as NotConnected

from jobkit.errors import StoreUnavailable
from jobkit.store.base import JobKey, Lease
from jobkit.store.redis import RedisStore
from local_stack import servers
from local_stack.ports import LOOPBACK, free_port
from local_stack.redis import Redis as RedisNode

NAME = "redis.invalid"
MINUTE = timedelta(minutes=1)
JOB = JobKey("email", "send_email", "job-1")

#: Called by Sentinel with: name, role, state, from-ip, from-port, to-ip, to-port.
RECONFIGURE = '#!/bin/sh\nprintf %s "$7" > "{place}.new" && mv "{place}.new" "{place}"\n'
CONFIGURATION = """
port {port}
bind 127.0.0.1
dir {folder}
sentinel monitor jobs 127.0.0.1 {primary} 1
sentinel down-after-milliseconds jobs 500
sentinel failover-timeout jobs 5000
sentinel client-reconfig-script jobs {script}
"""


class Watched:
    """A primary and a replica under one Sentinel, whose script writes the primary's port to a file."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.place, self.url = folder / "primary", f"redis://{NAME}:6379/0"
        self.nodes = [RedisNode(folder / name) for name in ("one", "two")]
        for node in self.nodes:
            stack.callback(node.kill)
            node.start()
        primary, replica = (node.ports["clients"] for node in self.nodes)
        self.place.write_text(str(primary))
        with Redis.from_url(self.nodes[0].url) as admin:
            admin.config_set("repl-diskless-sync-delay", 0)
        with Redis.from_url(self.nodes[1].url) as admin:
            admin.replicaof(LOOPBACK, str(primary))
            until(lambda: admin.info("replication")["master_link_status"] == "up")
        self._start_sentinel(folder, primary, stack)
        with Redis(port=self.port, decode_responses=True) as sentinel:
            until(lambda: _knows(sentinel, replica))

    @property
    def led_to(self) -> int:
        return int(self.place.read_text())

    def _start_sentinel(self, folder: Path, primary: int, stack: ExitStack) -> None:
        server, self.port = servers.find("redis"), free_port()
        assert server is not None
        script, configuration = folder / "reconfigure", folder / "sentinel.conf"
        script.write_text(RECONFIGURE.format(place=self.place))
        script.chmod(0o755)
        configuration.write_text(CONFIGURATION.format(port=self.port, folder=folder, primary=primary, script=script))
        with (folder / "sentinel.log").open("wb") as log:
            process = subprocess.Popen([server, configuration, "--sentinel"], stdout=log, stderr=log)
        stack.callback(process.wait)
        stack.callback(process.kill)


def _knows(sentinel: "Redis", replica: int) -> bool:
    try:
        return [int(one["port"]) for one in sentinel.sentinel_slaves("jobs")] == [replica]
    except NotConnected:  # it is still starting
        return False


def until(condition: Callable[[], bool], limit: float = 30.0) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.05)


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, redis_server: RedisNode) -> Iterator[Watched]:
    with ExitStack() as stack:
        watched, resolve = Watched(tmp_path, stack), socket.getaddrinfo

        def led(host: str, port: int, *more: Any, **options: Any) -> Any:
            if host == NAME:
                host, port = LOOPBACK, watched.led_to
            return resolve(host, port, *more, **options)

        monkeypatch.setattr(socket, "getaddrinfo", led)
        yield watched


def test_a_job_that_runs_through_a_failover_of_sentinel_keeps_its_lease_and_is_recorded(watched: Watched) -> None:
    store = RedisStore(watched.url, timeout=1.0)
    lease = store.acquire(JOB, "a", ttl=MINUTE, sent_at=1)
    assert isinstance(lease, Lease)
    with Redis.from_url(watched.nodes[0].url) as admin:
        admin.set("last", "word")
        assert admin.wait(1, 20_000) == 1
    watched.nodes[0].kill()

    def renewed() -> bool:
        try:
            return store.renew([lease], MINUTE) == [True]
        except StoreUnavailable:
            return False

    until(renewed)
    assert watched.led_to == watched.nodes[1].ports["clients"]
    assert store.complete(lease, b"result")
    store.close()
