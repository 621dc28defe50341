"""The program of a client: does what it reads on standard input with the jobkit that it imports.

Each line is a JSON object with the key ``do``; each answer is one line of JSON. The first line that it prints names the
folder that jobkit was imported from.
"""

import json
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from upgrade_jobs import CONTRACTS, DAILY, ShopTick

import jobkit
from jobkit.breaker.redis import RedisSwitches
from jobkit.children import child_id
from jobkit.errors import SendError
from jobkit.producer import Producer
from jobkit.schedule.registry import RedisSchedules
from jobkit.schedule.schedule import Schedule
from jobkit.store.base import JobKey
from jobkit.store.redis import RedisStore

#: Seconds that sends are repeated for while the broker is away.
PATIENCE = 30.0


class ClientProgram:
    """The commands. Each returns what the answer holds.

    Args:
        broker: The address of RabbitMQ.
        store: The address of Redis.
    """

    def __init__(self, broker: str, store: str) -> None:
        self.producer = Producer(broker, name="upgrade", timeout=10)
        self._store = store

    def send(
        self, contract: str, fields: dict[str, Any], lane: str, key: str | None, delay: float
    ) -> str:  # Any: a payload
        """Send a job, again until it is confirmed, and return its id."""
        job = CONTRACTS[contract].model_validate(fields)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return self.producer.send(job, lane=lane, key=key, delay=timedelta(seconds=delay)).job_id
            except SendError:
                if key is None or time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def record(self, contract: str, job_id: str) -> dict[str, object] | None:
        """Return what this version reads in a job's record."""
        record = RedisStore(self._store).record(_key(contract, job_id))
        if record is None:
            return None
        result = json.loads(record.result) if record.result else None
        return {"state": record.state, "attempt": record.attempt, "crashes": record.crashes, "result": result}

    def child_id(self, parent: str, job_id: str, child: str, fields: dict[str, Any]) -> str:  # Any: a payload
        """Return the id of the first job that a job sends."""
        return child_id(_key(parent, job_id), CONTRACTS[child].model_validate(fields), 1)

    def is_breaker_open(self, name: str) -> bool:
        """Return whether this version reads that a breaker is open."""
        return RedisSwitches(self._store).look(name) is not None

    def announce_tick(self) -> None:
        """Announce the shop's schedule as a worker did a day ago, so that a tick is due."""
        then = datetime.now(UTC) - timedelta(days=1)
        RedisSchedules(self._store).announce("shop", [Schedule.of("shop", ShopTick, DAILY)], then)

    def advance_tick(self, moment: float) -> None:
        """Note that the tick of a moment, in seconds since the epoch, was sent."""
        RedisSchedules(self._store).advance(f"shop.{ShopTick.actor}", datetime.fromtimestamp(moment, UTC))

    def last_tick(self) -> float | None:
        """Return the last tick that this version reads, in seconds since the epoch."""
        last = RedisSchedules(self._store).last_tick(f"shop.{ShopTick.actor}")
        return None if last is None else last.timestamp()

    def is_tick_sent(self) -> bool:
        """Return whether this version reads that the tick of last midnight was sent."""
        last = RedisSchedules(self._store).last_tick(f"shop.{ShopTick.actor}")
        return last is not None and (last.hour, last.minute, last.second) == (0, 0, 0)


def _key(contract: str, job_id: str) -> JobKey:
    return JobKey.of(CONTRACTS[contract].queue, CONTRACTS[contract].actor, job_id)


def main() -> None:
    """Answer until the end of the input."""
    program = ClientProgram(*sys.argv[1:])
    commands: dict[str, Callable[..., object]] = {
        "send": program.send,
        "record": program.record,
        "child_id": program.child_id,
        "is_breaker_open": program.is_breaker_open,
        "announce_tick": program.announce_tick,
        "advance_tick": program.advance_tick,
        "last_tick": program.last_tick,
        "is_tick_sent": program.is_tick_sent,
    }
    _answer(str(Path(jobkit.__file__).parents[1]))
    with program.producer:
        for line in sys.stdin:
            asked = json.loads(line)
            _answer(commands[asked.pop("do")](**asked))


def _answer(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
