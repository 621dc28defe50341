"""The no-op job under Dramatiq as it comes."""

import os
import time
from typing import Self

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from lines import write_line

broker = RabbitmqBroker(url=os.environ["JOBKIT_BROKER_URL"], confirm_delivery=True)
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name="load")
def noop(sent: float) -> None:
    """Write down that it ran."""
    write_line(sent)


class Sender:
    """Sends no-op jobs."""

    def send(self, sent: float) -> None:
        """Send one, confirmed."""
        noop.send(sent)

    def send_many(self, count: int) -> None:
        """Send many, each confirmed: there is no other way."""
        for _ in range(count):
            noop.send(time.time())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        broker.close()
