"""A service for tests whose jobs start processes, and write down which."""

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dramatiq import set_broker
from ledger import Ledger
from pydantic_settings import SettingsConfigDict

from jobkit.context import Context
from jobkit.contracts import Job
from jobkit.retry import never
from jobkit.service import Service
from jobkit.settings import ServiceSettings, exit_if_misconfigured, load_platform
from jobkit.time import seconds


class Pooled(Job, queue="pooled"):
    """Do as told within ``with Pool()``."""

    name: str
    method: str = "fork"
    then: str = "return"


class Forking(Job, queue="pooled"):
    """Fork once. The child returns from the job as well, or raises."""

    name: str
    then: str = "return"


class PoolSettings(ServiceSettings):
    """Where the ledger is."""

    model_config = SettingsConfigDict(env_prefix="PROBE_", extra="ignore", frozen=True)
    ledger: Path


@dataclass(frozen=True)
class Resources:
    """The ledger."""

    ledger: Ledger


@contextmanager
def open_resources(settings: PoolSettings) -> Iterator[Resources]:
    """Write down that a worker process has opened its resources."""
    ledger = Ledger(settings.ledger)
    ledger.write("open", str(os.getpid()))
    yield Resources(ledger)


service = Service("pooled", lifespan=open_resources)


@service.actor(Pooled, retry=never(), time_limit=seconds(float(os.environ.get("PROBE_TIME_LIMIT", "20"))))
def pooled(job: Pooled, context: Context[Resources]) -> None:
    """Do as told, and write down the children, and when the pool has been left."""
    ledger = context.resources.ledger
    try:
        with multiprocessing.get_context(job.method).Pool(2) as pool:
            assert pool.map(abs, range(-4, 0)) == [4, 3, 2, 1]
            for child in multiprocessing.active_children():
                ledger.write("child", str(child.pid))
            ledger.write("start", job.name)
            match job.then:
                case "return":
                    pass
                case "fail":
                    pool.apply_async(time.sleep, [60])
                    raise OSError("one part has failed")
                case "wait":
                    pool.apply_async(time.sleep, [60])
                    while True:
                        time.sleep(0.01)
                case "block":
                    pool.map(time.sleep, [60])  # waits for a lock, where no interrupt reaches it
    finally:
        ledger.write("left", job.name)


@service.actor(Forking, retry=never())
def forking(job: Forking, context: Context[Resources]) -> None:
    """Fork, and let the child come back; the parent writes down what it was told to stop with, and the end."""
    ledger = context.resources.ledger
    child = os.fork()
    if child == 0:
        if job.then == "raise":
            raise OSError("the child has failed")
        if job.then == "sleep":
            time.sleep(60)
        return
    if job.then == "sleep":
        os.kill(child, signal.SIGTERM)
    _, status = os.waitpid(child, 0)
    ledger.write("end", job.name, os.waitstatus_to_exitcode(status))


def broker() -> None:
    """What the dramatiq command calls."""
    with exit_if_misconfigured():
        set_broker(service.build(load_platform(), PoolSettings.load()))
