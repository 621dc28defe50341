"""The suite's job under jobkit, with all that it does by default."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from dramatiq import set_broker
from effect import work
from pydantic_settings import SettingsConfigDict

from jobkit.context import Context
from jobkit.contracts import Job
from jobkit.producer import Producer
from jobkit.retry import fixed
from jobkit.service import Service
from jobkit.settings import ServiceSettings, load_platform


class Task(Job, queue="chaos"):
    """Write down that it ran."""

    name: str
    seconds: float
    fail_once: bool


class SuiteSettings(ServiceSettings):
    """Nothing of its own."""

    model_config = SettingsConfigDict(env_prefix="SUITE_", extra="ignore", frozen=True)


@contextmanager
def no_resources(_settings: SuiteSettings) -> Iterator[None]:
    """Open nothing."""
    yield


service = Service("chaos", lifespan=no_resources)


@service.actor(Task, retry=fixed(1, attempts=8))
def task(job: Task, _context: Context[None]) -> None:
    """Write down that it ran."""
    work(job.name, job.seconds, job.fail_once)


def broker() -> None:
    """What the dramatiq command calls."""
    set_broker(service.build(load_platform(), SuiteSettings.load()))


class Sender:
    """Sends jobs, each under an id of its own."""

    def __init__(self) -> None:
        self._producer = Producer(os.environ["JOBKIT_BROKER_URL"], timeout=10)

    def send(self, name: str, seconds: float, *, fail_once: bool, delay: float) -> None:
        """Return once the job is confirmed."""
        job = Task(name=name, seconds=seconds, fail_once=fail_once)
        self._producer.send(job, job_id=name, delay=timedelta(seconds=delay))
