"""Each system of the benchmark sends and works, and what is measured of it is what happened."""

import sys
from pathlib import Path

import pytest
from peers import SYSTEMS, System
from rig import Rig
from room import Room

from local_stack.rabbitmq import RabbitMQ
from local_stack.redis import Redis

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads proc(5)")


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.name)
def test_a_system_runs_each_job_once(
    system: System, rabbitmq: RabbitMQ, redis_url: str, redis_server: Redis, vhost_url: str, tmp_path: Path
) -> None:
    room = Room(Rig(rabbitmq, redis_server, tmp_path), system, vhost_url, tmp_path)
    assert room.send("bulk", 200).per_second > 0
    room.expect(200)
    with room.worker() as worker:
        drain = worker.drain(200)
        waits = worker.paced(20)
        memory = worker.memory_bytes()
    assert drain.per_second > 10
    assert 0 < drain.worker_ms < 100
    assert 0 < drain.fullness <= 1
    assert len(waits) == 19
    assert all(0 < wait < 10 for wait in waits)
    assert 20 * 2**20 < memory < 500 * 2**20
    room.expect(0)
