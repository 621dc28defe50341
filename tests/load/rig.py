"""The private nodes of a benchmark."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

import redis
from process_tree import ProcessTree

from local_stack.rabbitmq import RabbitMQ
from local_stack.redis import Redis

HERE: Final = Path(__file__).resolve().parent
MB: Final = 2**20

BROKER, STORE = "broker", "store"  #: The names of the nodes' process trees.


class Rig:
    """The nodes of a benchmark.

    Args:
        rabbitmq: Runs, with its management API.
        store: Runs.
        folder: For all files.
    """

    def __init__(self, rabbitmq: RabbitMQ, store: Redis, folder: Path) -> None:
        self.rabbitmq = rabbitmq
        self.redis = store
        self.folder = folder
        self.trees = {
            BROKER: ProcessTree(rabbitmq.processes[0].pid),
            STORE: ProcessTree(store.processes[0].pid),
        }

    @classmethod
    @contextmanager
    def private(cls) -> Iterator[Self]:
        """Start RabbitMQ, and Redis as it is shipped: each write is on disk before it is answered."""
        with (
            tempfile.TemporaryDirectory(prefix="bench-") as folder,
            RabbitMQ(Path(folder) / "rabbitmq", management=True) as rabbitmq,
            Redis(Path(folder) / "redis", fsync="always") as store,
        ):
            yield cls(rabbitmq, store, Path(folder))

    def environment(self, url: str) -> dict[str, str]:
        """Return the variables of all processes: nothing that this shell sets for jobkit, Celery or OpenTelemetry."""
        ours = ("JOBKIT_", "CELERY_", "LOAD_", "EMAIL_", "OTEL_", "SENTRY_", "dramatiq_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        return {**kept, "PYTHONPATH": str(HERE), "JOBKIT_BROKER_URL": url, "JOBKIT_STORE_URL": self.redis.url}

    @contextmanager
    def virtual_host(self, name: str) -> Iterator[str]:
        """Give the address of a virtual host of its own, and an empty Redis."""
        self.redis.flush()
        yield self.rabbitmq.create_vhost(name)
        self.rabbitmq.delete_vhost(name)

    def store_bytes(self) -> int:
        """Return the memory that Redis uses for its data."""
        with redis.Redis.from_url(self.redis.url) as client:
            return int(client.info("memory")["used_memory"])

    def sync(self, when: str) -> None:
        """Set when Redis writes to the disk: ``always`` or ``everysec``."""
        with redis.Redis.from_url(self.redis.url) as client:
            client.config_set("appendfsync", when)
