"""The job as jobkit sends it. Its worker is ``load_service``."""

import os
from collections.abc import Iterable
from datetime import timedelta
from typing import Self

from bench_job import Load

from jobkit.contracts import Job
from jobkit.producer import Producer


class LoadJob(Job, queue="load"):
    """Write down that it ran."""

    sent: float
    seconds: float
    data: str


class Sender:
    """Sends jobs, always confirmed; many with their confirms in flight together."""

    def __init__(self, *, confirmed: bool) -> None:
        self._producer = Producer(os.environ["JOBKIT_BROKER_URL"], timeout=60)

    def send(self, load: Load) -> None:
        """Send one."""
        self._producer.send(LoadJob(**load._asdict()))

    def send_many(self, loads: Iterable[Load], delay: int = 0) -> None:
        """Send many."""
        self._producer.send_many((LoadJob(**load._asdict()) for load in loads), delay=timedelta(seconds=delay))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._producer.close()
