"""Readings of everything that could grow, every few seconds, and whether it did."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import median
from types import TracebackType
from typing import Any, Self

import redis
from vitals import look_at

from local_stack.errors import NodeFailed
from local_stack.rabbitmq import RabbitMQ
from local_stack.redis import Redis

#: Seconds between two readings.
EVERY = 2.0
#: Seconds after the start that are not judged, of a process or of the run: it imports, connects, and runs each kind of
#: job once.
WARM_UP = 20.0
#: Readings that a third must have to be judged.
LEAST = 5


@dataclass(frozen=True)
class Bound:
    """By how much the last third of a gauge's readings may lie above the first, median to median."""

    title: str
    growth: float
    why: str


#: Of one process, from the end of its warm-up to its end.
PROCESS = {
    "resident": Bound("MiB", 8.0, "one MiB is usual; five minutes are some 4,000 runs, so a leak of 3 KiB a run shows"),
    "files": Bound("open files", 9, "each of the eight threads, and who renews, opens a connection to the store once"),
    "threads": Bound("threads", 2, "the threads of telemetry and of the publisher start when first needed"),
}
#: Of the whole run.
SHARED = {
    "connections": Bound("connections at the broker", 3, "one that a kill has left behind lives until its heartbeat"),
    "channels": Bound("channels at the broker", 4, "the same, and one that declares a queue"),
    "clients": Bound("clients of Redis", 16, "each thread that meets an outage may leave one until it is collected"),
    "record": Bound("bytes in Redis per key", 300, "all records have the same fields; none may gain some"),
}

#: What is shown without a bound.
OTHERS = {"waiting": "messages waiting", "keys": "keys in Redis", "memory": "MiB in Redis"}

Reading = tuple[float, float]  #: When, and how much.


class Gauges:
    """Reads in a thread of its own until the block ends.

    Args:
        pids: The worker processes of the moment.
    """

    def __init__(self, rabbitmq: RabbitMQ, store: Redis, vhost: str, pids: Callable[[], Sequence[int]]) -> None:
        self._rabbitmq, self._pids = rabbitmq, pids
        self._vhost = vhost
        self._redis = redis.Redis.from_url(store.url, socket_timeout=2)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gauges")
        self.processes: defaultdict[int, dict[str, list[Reading]]] = defaultdict(lambda: defaultdict(list))
        self.shared: defaultdict[str, list[Reading]] = defaultdict(list)

    def _run(self) -> None:
        while not self._ended.wait(EVERY):
            now = time.monotonic()
            for pid in self._pids():
                with suppress(OSError):  # it has just ended
                    look = look_at(pid)
                    for name in PROCESS:
                        self.processes[pid][name].append((now, float(getattr(look, name))))
            with suppress(OSError, NodeFailed, redis.RedisError, KeyError, TypeError):  # a fault is on: no reading
                for name, value in self._read_shared().items():
                    self.shared[name].append((now, value))

    def _read_shared(self) -> dict[str, float]:
        overview: Any = self._rabbitmq.call("GET", "/api/overview")  # Any: what the management API answers
        queues: Any = self._rabbitmq.call("GET", f"/api/queues/{self._vhost}")
        info: Any = self._redis.info()
        keys = info.get("db0", {}).get("keys", 0)
        return {
            "connections": overview["object_totals"]["connections"],
            "channels": overview["object_totals"]["channels"],
            "waiting": sum(q.get("messages", 0) for q in queues if not q["name"].endswith(".dlq")),
            "clients": info["connected_clients"],
            "keys": keys,
            "memory": info["used_memory"] / 2**20,
            **({"record": info["used_memory_dataset"] / keys} if keys > 1_000 else {}),
        }

    def breaches(self) -> Iterator[str]:
        """What has grown by more than its bound."""
        for name, bound in PROCESS.items():
            for pid, readings in self._lives(name):
                yield from _breach(f"process {pid}:", bound, readings)
        for name, bound in SHARED.items():
            yield from _breach("", bound, _warm(self.shared[name]))

    def summary(self) -> Iterator[tuple[str, str, str, str]]:
        """For each gauge its median in the first and last third, and its highest reading."""
        for name, bound in PROCESS.items():
            lives = [readings for _, readings in self._lives(name)]
            if lives:
                worst = max(lives, key=_growth)
                yield f"{bound.title} of a worker (of {len(lives)}, the one that grew most)", *_figures(worst)
        for name, readings in self.shared.items():
            yield SHARED[name].title if name in SHARED else OTHERS[name], *_figures(readings)

    def _lives(self, name: str) -> Iterator[tuple[int, list[Reading]]]:
        """The readings of each process that lived long enough to be judged."""
        for pid, series in self.processes.items():
            warm = _warm(series[name])
            if len(warm) >= 3 * LEAST:
                yield pid, warm

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join(30)
        self._redis.close()


def _warm(readings: Sequence[Reading]) -> list[Reading]:
    return [reading for reading in readings if reading[0] > readings[0][0] + WARM_UP]


def _thirds(readings: Sequence[Reading]) -> tuple[list[float], list[float]]:
    values, third = [value for _, value in readings], len(readings) // 3
    return values[:third], values[len(values) - third :]


def _growth(readings: Sequence[Reading]) -> float:
    first, last = _thirds(readings)
    return median(last) - median(first)


def _figures(readings: Sequence[Reading]) -> tuple[str, str, str]:
    first, last = (f"{median(values):,.1f}" if values else "" for values in _thirds(readings))
    return first, last, f"{max(value for _, value in readings):,.1f}"


def _breach(where: str, bound: Bound, readings: Sequence[Reading]) -> Iterator[str]:
    if len(readings) >= 3 * LEAST and _growth(readings) > bound.growth:
        grown = f"{where} {bound.title} grew by {_growth(readings):,.1f}, the bound is {bound.growth:g}".strip()
        yield f"{grown} ({bound.why})"
