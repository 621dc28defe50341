"""The job under Dramatiq as it comes, on classic or on quorum queues (``BENCH_QUEUES``)."""

import os
from collections.abc import Iterable
from typing import Any, Self

import dramatiq
from bench_job import Load, work
from dramatiq.brokers.rabbitmq import RabbitmqBroker


class _Broker(RabbitmqBroker):
    """Declares its queues with a type. Dramatiq has no option for it."""

    def _build_queue_arguments(self, queue_name: str) -> dict[str, Any]:
        arguments: dict[str, Any] = super()._build_queue_arguments(queue_name)  # type: ignore[no-untyped-call]
        return {**arguments, "x-queue-type": os.environ["BENCH_QUEUES"]}


broker = _Broker(url=os.environ["JOBKIT_BROKER_URL"], confirm_delivery=True)
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name="load")
def job(sent: float, seconds: float, _data: str) -> None:
    """Write down that it ran."""
    work(sent, seconds)


class Sender:
    """Sends jobs, each with a confirm of its own: Dramatiq has no other way."""

    def __init__(self, *, confirmed: bool) -> None:
        broker.confirm_delivery = confirmed

    def send(self, load: Load) -> None:
        """Send one."""
        job.send(*load)

    def send_many(self, loads: Iterable[Load], delay: int = 0) -> None:
        """Send many."""
        for load in loads:
            job.send_with_options(args=load, delay=1000 * delay or None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        broker.close()
