"""The no-op job under jobkit, with all that it does by default."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from dramatiq import set_broker
from lines import write_line
from pydantic_settings import SettingsConfigDict

from jobkit.context import Context
from jobkit.contracts import Job
from jobkit.producer import Producer
from jobkit.service import Service
from jobkit.settings import ServiceSettings, load_platform


class Noop(Job, queue="load"):
    """Do nothing."""

    sent: float


class LoadSettings(ServiceSettings):
    """Nothing of its own."""

    model_config = SettingsConfigDict(env_prefix="LOAD_", extra="ignore", frozen=True)


@contextmanager
def no_resources(_settings: LoadSettings) -> Iterator[None]:
    """Open nothing."""
    yield


service = Service("load", lifespan=no_resources)


@service.actor(Noop)
def noop(job: Noop, _context: Context[None]) -> None:
    """Write down that it ran."""
    write_line(job.sent)


def broker() -> None:
    """What the dramatiq command calls."""
    set_broker(service.build(load_platform(), LoadSettings.load()))


class Sender(Producer):
    """Sends no-op jobs."""

    def __init__(self) -> None:
        super().__init__(os.environ["JOBKIT_BROKER_URL"], timeout=60)

    def send(self, sent: float) -> None:  # type: ignore[override]  # the benchmark's own narrow interface
        """Send one, confirmed."""
        super().send(Noop(sent=sent))

    def send_many(self, count: int) -> None:  # type: ignore[override]  # the same
        """Send many with their confirms in flight together."""
        super().send_many(Noop(sent=time.time()) for _ in range(count))
