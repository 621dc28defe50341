"""The service under soak: its job writes down that it starts and ends, and on its way does what its payload says."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dramatiq import set_broker
from ledger import Ledger
from pydantic_settings import SettingsConfigDict

from jobkit.context import Context
from jobkit.contracts import Job
from jobkit.errors import PermanentError, Snooze, TransientError
from jobkit.retry import fixed
from jobkit.schedule import cron
from jobkit.service import Service
from jobkit.settings import ServiceSettings, load_platform
from jobkit.time import seconds


class Task(Job, queue="chaos", lanes=("high", "normal")):
    """Write down that it ran.

    Attributes:
        first: What its first run does instead: ``fail`` or ``snooze``. With ``give up`` each run does it, as the first
            may be killed before its dead letter is confirmed.
        children: So many jobs it sends.
    """

    name: str
    seconds: float = 0.0
    first: str = ""
    children: int = 0


class Tick(Job, queue="chaos"):
    """Sent by the clock."""


class SoakSettings(ServiceSettings):
    """Nothing of its own."""

    model_config = SettingsConfigDict(env_prefix="SOAK_", extra="ignore", frozen=True)


@contextmanager
def open_folder(_settings: SoakSettings) -> Iterator[Path]:
    """Where the ledger is."""
    yield Path(os.environ["SUITE_FOLDER"])


service = Service("chaos", lifespan=open_folder)


@service.actor(Task, retry=fixed(1, attempts=4), time_limit=seconds(10))
def task(job: Task, context: Context[Path]) -> None:
    """Do as told."""
    ledger = Ledger(context.resources / "ledger")
    ledger.write("start", job.name)
    for number in range(job.children):
        context.send(Task(name=f"{job.name}/{number}"))
    time.sleep(job.seconds)
    if job.first == "give up" or (job.first and _is_first(context.resources / "marks" / job.name)):
        _misbehave(job.first)
    ledger.write("end", job.name)


@service.actor(Tick, retry=fixed(1, attempts=4), periodic=cron("* * * * *"), time_limit=seconds(10))
def tick(_: Tick, context: Context[Path]) -> None:
    """Write down that the clock has struck."""
    Ledger(context.resources / "ledger").write("end", f"tick-{context.job_id}")


def _is_first(mark: Path) -> bool:
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _misbehave(how: str) -> None:
    match how:
        case "fail":
            raise TransientError("told to fail")
        case "snooze":
            raise Snooze(delay=1)
        case "give up":
            raise PermanentError("told to give up")


def broker() -> None:
    """What the dramatiq command calls."""
    set_broker(service.build(load_platform(), SoakSettings.load()))
