"""The blows: each function strikes, and returns when the fault is over."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from clock import Clock
from cluster import Cluster
from proxy import Proxy
from worker_groups import Workers

from local_stack.errors import NodeFailed
from local_stack.rabbitmq import RabbitMQ
from local_stack.redis import Redis

#: Seconds that a broker, a store or the network is away.
OUTAGE = 3.0
#: Seconds between two strikes of one fault.
BETWEEN = 1.5
#: Seconds until what was just asked for has reached all: a policy its queues, an end of trouble the jobs that run.
SOON = 1.0
#: Messages, as the limit of a queue that is never full.
PLENTY = 1_000_000
#: Seconds by which a clock is wrong.
JUMP = 3600.0

Part = TypeVar("Part")


@dataclass(frozen=True)
class Scene:
    """What a fault may lay hands on.

    Attributes:
        trouble: While there is a file here, jobs fail at their first run.
    """

    rabbitmq: RabbitMQ
    redis: Redis
    workers: Workers
    vhost: str
    trouble: Path
    proxy: Proxy | None = None
    cluster: Cluster | None = None
    clock: Clock | None = None


def kill_workers(scene: Scene) -> None:
    """One after the other, and at the end both."""
    for strike in range(4):
        scene.workers.kill(strike % scene.workers.count)
        time.sleep(BETWEEN)
    scene.workers.kill(*range(scene.workers.count))


def roll_workers(scene: Scene) -> None:
    """SIGTERM to each in turn, twice round, as a deployment does."""
    for strike in range(2 * scene.workers.count):
        scene.workers.terminate(strike % scene.workers.count)
        time.sleep(BETWEEN)


def close_connections(scene: Scene) -> None:
    """All of them, four times."""
    for strike in range(4):
        time.sleep(BETWEEN if strike else 0)
        found = scene.rabbitmq.call("GET", f"/api/vhosts/{quote(scene.vhost, safe='')}/connections")
        for connection in found if isinstance(found, list) else []:
            try:
                scene.rabbitmq.call("DELETE", f"/api/connections/{quote(connection['name'], safe='')}")
            except NodeFailed:  # it has gone by itself since
                continue


def stop_broker(scene: Scene) -> None:
    """Gently, and start it again after a while."""
    scene.rabbitmq.stop()
    time.sleep(OUTAGE)
    scene.rabbitmq.start()


def kill_broker(scene: Scene) -> None:
    """As a power cut does, and start it again."""
    time.sleep(2)  # RabbitMQ 3.10 forgets a quorum queue that is younger than a second when it is killed
    scene.rabbitmq.kill()
    time.sleep(OUTAGE)
    scene.rabbitmq.start()


def stop_redis(scene: Scene) -> None:
    """Gently, and start it again after a while."""
    scene.redis.stop()
    time.sleep(OUTAGE)
    scene.redis.start()


def kill_redis(scene: Scene) -> None:
    """As a power cut does, and start it again from its append-only file; twice."""
    for strike in range(2):
        time.sleep(BETWEEN if strike else 0)
        scene.redis.kill()
        time.sleep(OUTAGE)
        scene.redis.start()


def freeze_network(scene: Scene) -> None:
    """Nothing comes through for a while; then frames are cut in two and all connections reset; twice."""
    proxy = _present(scene.proxy)
    for strike in range(2):
        time.sleep(BETWEEN if strike else 0)
        proxy.freeze()
        time.sleep(OUTAGE)
        proxy.reset()


def fill_disk(scene: Scene) -> None:
    """The broker's disk alarm, which blocks every connection that publishes."""
    scene.rabbitmq.ctl("set_disk_free_limit", "1000000GB")
    time.sleep(OUTAGE)
    scene.rabbitmq.ctl("set_disk_free_limit", "50MB")


def nothing(_scene: Scene) -> None:
    """The way that the jobs are sent is the fault."""


def refuse_publishes(scene: Scene) -> None:
    """Every queue is full, so nothing that is published is taken, while jobs fail and should be retried."""
    # A classic queue that learns of both at once drops what is in it, and a quorum queue whose limit is taken away
    # instead of raised (RabbitMQ 3.10) never lets those in that it has refused.
    _limit_queues(scene, PLENTY)
    _limit_queues(scene, 0)
    _let_jobs_fail(scene)
    _limit_queues(scene, PLENTY)


def refuse_connections(scene: Scene) -> None:
    """Connections stay as they are, and nobody gets a new one, while jobs fail and should be retried."""
    proxy = _present(scene.proxy)
    proxy.refuse()
    _let_jobs_fail(scene)
    proxy.accept()


def kill_leaders(scene: Scene) -> None:
    """The node that leads the queue, as a power cut does, and when it is back the one that leads it by then."""
    cluster = _present(scene.cluster)
    for strike in range(2):
        time.sleep(BETWEEN if strike else 0)
        cluster.leader_of(scene.vhost, "chaos").kill()
        time.sleep(OUTAGE)
        cluster.start()


def move_clock(scene: Scene) -> None:
    """An hour forward, and back."""
    clock = _present(scene.clock)
    clock.move(JUMP)
    time.sleep(OUTAGE)
    clock.move(0)


def _limit_queues(scene: Scene, length: int) -> None:
    full = {"max-length": length, "overflow": "reject-publish"}
    policy = {"pattern": ".*", "apply-to": "queues", "definition": full}
    scene.rabbitmq.call("PUT", f"/api/policies/{quote(scene.vhost, safe='')}/full", policy)
    time.sleep(SOON)


def _let_jobs_fail(scene: Scene) -> None:
    scene.trouble.touch()
    time.sleep(OUTAGE)
    scene.trouble.unlink()
    time.sleep(SOON)


def _present(part: Part | None) -> Part:
    if part is None:
        raise ValueError("the fault does not say that it needs this")
    return part
