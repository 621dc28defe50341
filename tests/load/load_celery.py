"""The no-op job under Celery with the settings that come closest to our guarantees."""

import os
import time
from typing import Self

from celery import Celery
from lines import write_line

app = Celery("load", broker=os.environ["JOBKIT_BROKER_URL"])
app.conf.update(
    broker_transport_options={"confirm_publish": True},
    task_acks_late=True,
    task_default_queue="load",
    task_ignore_result=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=32,
    broker_connection_retry_on_startup=True,
)


@app.task(name="noop")  # type: ignore[untyped-decorator]  # Celery ships no types
def noop(sent: float) -> None:
    """Write down that it ran."""
    write_line(sent)


class Sender:
    """Sends no-op jobs."""

    def send(self, sent: float) -> None:
        """Send one, confirmed."""
        noop.delay(sent)

    def send_many(self, count: int) -> None:
        """Send many, each confirmed: there is no other way."""
        for _ in range(count):
            noop.delay(time.time())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        app.close()
