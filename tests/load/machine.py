"""The machine and the versions that figures belong to. Only Linux tells (``sys.platform``): `make bench` asks first."""

import datetime
import os
import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import redis
from results import Machine

from local_stack.rabbitmq import RabbitMQ
from local_stack.redis import Redis

PACKAGES = ("jobkit", "dramatiq", "pika", "celery", "taskiq", "taskiq-aio-pika")


def machine(rabbitmq: RabbitMQ, store: Redis) -> Machine:
    """Describe this machine, and the nodes that run on it."""
    overview = rabbitmq.call("GET", "/api/overview")
    if not isinstance(overview, dict):
        raise TypeError(f"the management API answered {overview!r} instead of an overview")
    with redis.Redis.from_url(store.url) as client:
        redis_version = str(client.info("server")["redis_version"])
    return Machine(
        day=datetime.datetime.now(datetime.UTC).date().isoformat(),
        processor=_value(Path("/proc/cpuinfo").read_text().splitlines(), "model name") or platform.machine(),
        cores=os.cpu_count() or 1,
        memory_gb=round(int(_value(Path("/proc/meminfo").read_text().splitlines(), "MemTotal").split()[0]) / 2**20, 1),
        system=_system(),
        versions={
            "Python": platform.python_version(),
            "RabbitMQ": str(overview["rabbitmq_version"]),
            "Redis": redis_version,
            **{package: version(package) for package in PACKAGES},
        },
    )


def _system() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:  # there is no such file
        return f"{platform.system()} {platform.release()}"


def _value(lines: Iterable[str], name: str) -> str:
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")
