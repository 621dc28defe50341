"""The job under Celery with the settings that come closest to our guarantees."""

import os
from collections.abc import Iterable
from typing import Self

from bench_job import Load, work
from celery import Celery

app = Celery("load", broker=os.environ["JOBKIT_BROKER_URL"])
app.conf.update(
    broker_transport_options={"confirm_publish": True},
    task_acks_late=True,
    task_default_queue="load",
    task_ignore_result=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=32,  # for each of two processes: 64
    broker_connection_retry_on_startup=True,
)


@app.task(name="job")  # type: ignore[untyped-decorator]  # Celery ships no types
def job(sent: float, seconds: float, _data: str) -> None:
    """Write down that it ran."""
    work(sent, seconds)


class Sender:
    """Sends jobs, each with a confirm of its own: Celery has no other way."""

    def __init__(self, *, confirmed: bool) -> None:
        app.conf.broker_transport_options = {"confirm_publish": confirmed}

    def send(self, load: Load) -> None:
        """Send one."""
        job.delay(*load)

    def send_many(self, loads: Iterable[Load], delay: int = 0) -> None:
        """Send many."""
        for load in loads:
            job.apply_async(load, countdown=delay or None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        app.close()
