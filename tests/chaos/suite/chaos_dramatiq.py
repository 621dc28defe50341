"""The suite's job under Dramatiq as it comes, with confirms."""

import os

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from effect import work

URLS = os.environ["JOBKIT_BROKER_URL"].split(",")


class QuorumBroker(RabbitmqBroker):
    """With quorum queues, as a virtual host makes that is told to; a cluster's classic queues live on one node."""

    def _build_queue_arguments(self, queue_name: str) -> dict[str, object]:
        arguments = super()._build_queue_arguments(queue_name)  # type: ignore[no-untyped-call]  # Dramatiq's
        return {**arguments, "x-queue-type": "quorum"}


broker = (QuorumBroker if len(URLS) > 1 else RabbitmqBroker)(url=URLS, confirm_delivery=True)
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name="chaos", max_retries=7, min_backoff=1000, max_backoff=1000)
def task(name: str, seconds: float, fail_once: bool) -> None:
    """Write down that it ran."""
    work(name, seconds, fail_once)


class Sender:
    """Sends jobs, each under an id of its own."""

    def send(self, name: str, seconds: float, *, fail_once: bool, delay: float) -> None:
        """Return once the job is confirmed."""
        message = task.message(name, seconds, fail_once).copy(message_id=name)
        broker.enqueue(message, delay=int(delay * 1000) or None)
