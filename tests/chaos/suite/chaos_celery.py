"""The suite's job under Celery with the settings that come closest to our guarantees."""

import os

from celery import Celery
from effect import ToldToFail, work

URL = os.environ["JOBKIT_BROKER_URL"]

app = Celery("chaos", broker=URL.replace(",", ";"))
app.conf.update(
    broker_transport_options={"confirm_publish": True},
    task_acks_late=True,
    task_default_queue="chaos",
    task_default_queue_type="quorum" if "," in URL else "classic",  # a cluster's classic queues live on one node
    task_ignore_result=True,
    task_reject_on_worker_lost=True,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
)


@app.task(  # type: ignore[untyped-decorator]  # Celery ships no types
    name="task", autoretry_for=(ToldToFail,), max_retries=7, default_retry_delay=1
)
def task(name: str, seconds: float, fail_once: bool) -> None:
    """Write down that it ran."""
    work(name, seconds, fail_once)


class Sender:
    """Sends jobs, each under an id of its own."""

    def send(self, name: str, seconds: float, *, fail_once: bool, delay: float) -> None:
        """Return once the job is confirmed."""
        task.apply_async((name, seconds, fail_once), task_id=name, countdown=delay or None)
