"""The faults, each a function that strikes and returns when the fault is over."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote

from proxy import Proxy
from workers import Workers

from local_stack.errors import NodeFailed
from local_stack.rabbitmq import RabbitMQ
from local_stack.redis import Redis

#: Seconds that a broker, a store or the network is away.
OUTAGE = 3.0
#: Seconds between two strikes of one fault.
BETWEEN = 1.5


@dataclass(frozen=True)
class Scene:
    """What a fault may lay hands on."""

    rabbitmq: RabbitMQ
    redis: Redis
    workers: Workers
    vhost: str
    proxy: Proxy | None


@dataclass(frozen=True)
class Plan:
    """How the jobs are sent: each ``copies`` times, to run after ``delay`` seconds, and to fail at their first run."""

    copies: int = 1
    delay: float = 0.0
    fail_once: bool = False


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        name: What ``CHAOS_FAULTS`` selects it by.
        title: What happens, for the table.
        only: The system that it concerns, if the others do not have what is broken.
        proxied: Whether the broker is reached through the network that can freeze.
    """

    name: str
    title: str
    strike: Callable[[Scene], None]
    plan: Plan = Plan()
    only: str | None = None
    proxied: bool = False


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
    if scene.proxy is None:
        raise ValueError("this fault needs the proxy")
    for strike in range(2):
        time.sleep(BETWEEN if strike else 0)
        scene.proxy.freeze()
        time.sleep(OUTAGE)
        scene.proxy.reset()


def fill_disk(scene: Scene) -> None:
    """The broker's disk alarm, which blocks every connection that publishes."""
    scene.rabbitmq.ctl("set_disk_free_limit", "1000000GB")
    time.sleep(OUTAGE)
    scene.rabbitmq.ctl("set_disk_free_limit", "50MB")


def nothing(_scene: Scene) -> None:
    """The way that the jobs are sent is the fault."""


FAULTS = (
    Fault("kill", "workers killed (SIGKILL), five times", kill_workers),
    Fault("roll", "workers stopped in turn (SIGTERM), four times", roll_workers),
    Fault("close", "all connections closed by the broker, four times", close_connections),
    Fault("restart", "broker stopped and started", stop_broker),
    Fault("crash", "broker killed (SIGKILL) and started", kill_broker),
    Fault("alarm", "the broker's disk alarm", fill_disk),
    Fault("freeze", "network frozen, frames cut, connections reset, twice", freeze_network, proxied=True),
    Fault("retries", "broker stopped and started, every job fails once", stop_broker, Plan(fail_once=True)),
    Fault("delayed", "workers killed, every job delayed by 3 s", kill_workers, Plan(delay=3.0)),
    Fault("twice", "every job published twice under one id", nothing, Plan(copies=2)),
    Fault("redis-stop", "Redis stopped and started", stop_redis, only="jobkit"),
    Fault("redis-kill", "Redis killed (SIGKILL) and started, twice", kill_redis, only="jobkit"),
)
