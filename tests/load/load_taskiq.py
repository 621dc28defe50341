"""The job under Taskiq with its broker for RabbitMQ, as they come: quorum queues, confirms, ack after the job."""

import asyncio
import os
from collections.abc import Awaitable, Iterable, Iterator
from itertools import islice
from typing import Self

from bench_job import Load, started
from taskiq_aio_pika import AioPikaBroker, Queue

_IN_FLIGHT = 500  #: Sends that wait for their confirms together.

broker = AioPikaBroker(os.environ["JOBKIT_BROKER_URL"], delay_queue=Queue(name="load.delay")).with_queue(
    Queue(name="load")
)


@broker.task(task_name="job")
async def job(sent: float, seconds: float, _data: str) -> None:
    """Write down that it ran. A coroutine, as Taskiq is made for."""
    started(sent)
    if seconds:
        await asyncio.sleep(seconds)


class Sender:
    """Sends jobs; many with their confirms in flight together."""

    def __init__(self, *, confirmed: bool) -> None:
        self._loop = asyncio.new_event_loop()

    def send(self, load: Load) -> None:
        """Send one."""
        self._loop.run_until_complete(_send([load], 0))

    def send_many(self, loads: Iterable[Load], delay: int = 0) -> None:
        """Send many."""
        rest = iter(loads)
        while batch := list(islice(rest, _IN_FLIGHT)):
            self._loop.run_until_complete(_send(batch, delay))

    def __enter__(self) -> Self:
        self._loop.run_until_complete(broker.startup())
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run_until_complete(broker.shutdown())
        self._loop.close()


async def _send(loads: Iterable[Load], delay: int) -> None:
    await asyncio.gather(*_kicks(loads, delay))


def _kicks(loads: Iterable[Load], delay: int) -> Iterator[Awaitable[object]]:
    for load in loads:
        kicker = job.kicker()
        yield (kicker.with_labels(delay=delay) if delay else kicker).kiq(*load)
