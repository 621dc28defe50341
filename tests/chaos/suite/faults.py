"""The faults: what each is called, what it does, and how the jobs are sent meanwhile."""

from collections.abc import Callable
from dataclasses import dataclass

import strikes
from strikes import Scene


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
        proxied: The broker is reached through the network that can freeze.
        clustered: The broker is three nodes.
        clocked: Workers and Redis live by a clock that can be moved.
    """

    name: str
    title: str
    strike: Callable[[Scene], None]
    plan: Plan = Plan()
    only: str | None = None
    proxied: bool = False
    clustered: bool = False
    clocked: bool = False


FAULTS = (
    Fault("kill", "workers killed (SIGKILL), five times", strikes.kill_workers),
    Fault("roll", "workers stopped in turn (SIGTERM), four times", strikes.roll_workers),
    Fault("close", "all connections closed by the broker, four times", strikes.close_connections),
    Fault("restart", "broker stopped and started", strikes.stop_broker),
    Fault("crash", "broker killed (SIGKILL) and started", strikes.kill_broker),
    Fault("alarm", "the broker's disk alarm", strikes.fill_disk),
    Fault("freeze", "network frozen, frames cut, connections reset, twice", strikes.freeze_network, proxied=True),
    Fault(
        "leader",
        "in a cluster, the node that leads the queue killed (SIGKILL), twice",
        strikes.kill_leaders,
        clustered=True,
    ),
    Fault("retries", "broker stopped and started, every job fails once", strikes.stop_broker, Plan(fail_once=True)),
    Fault("refused", "full queues take no retry", strikes.refuse_publishes),
    Fault("unreachable", "no new connection to be had for a retry", strikes.refuse_connections, proxied=True),
    Fault("delayed", "workers killed, every job delayed by 3 s", strikes.kill_workers, Plan(delay=3.0)),
    Fault("twice", "every job published twice under one id", strikes.nothing, Plan(copies=2)),
    Fault(
        "clock",
        "the clock an hour ahead and back, every job fails once",
        strikes.move_clock,
        Plan(fail_once=True),
        clocked=True,
    ),
    Fault("redis-stop", "Redis stopped and started", strikes.stop_redis, only="jobkit"),
    Fault("redis-kill", "Redis killed (SIGKILL) and started, twice", strikes.kill_redis, only="jobkit"),
)
