"""A service for tests: its one job does what its payload says, and writes down when it starts and ends."""

import asyncio
import ctypes
import os
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dramatiq import set_broker
from ledger import Ledger
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from jobkit.breaker.breaker import CircuitBreaker
from jobkit.context import Context
from jobkit.contracts import Job
from jobkit.errors import PermanentError, Snooze, TransientError
from jobkit.observers import Observation, Observer
from jobkit.retry import fixed
from jobkit.schedule import cron
from jobkit.service import Service
from jobkit.settings import ServiceSettings, exit_if_misconfigured, load_platform
from jobkit.time import seconds


class Probe(Job, queue="probe", lanes=("high", "normal")):
    """Do as told."""

    name: str = "probe"
    seconds: float = 0
    then: str = "return"
    until_attempt: int = 1_000_000
    once: bool = False  # misbehave when it is run first, whichever attempt that is counted as
    children: int = 0
    children_then: str = "return"


class Call(Job, queue="probe"):
    """Use something that is down as long as there is a file called ``outage`` beside the ledger."""

    name: str


class Daily(Job, queue="probe"):
    """Write down what its defaults are, after dying with its worker once."""

    run: str = Field(default_factory=lambda: str(uuid.uuid4()))


class Stuck(Job, queue="probe"):
    """Do not end after the time limit when run first; end when run again."""

    name: str
    how: str


class ProbeSettings(ServiceSettings):
    """Where the ledger is."""

    model_config = SettingsConfigDict(env_prefix="PROBE_", extra="ignore", frozen=True)
    ledger: Path


@dataclass(frozen=True)
class Resources:
    """The ledger."""

    ledger: Ledger


@contextmanager
def open_resources(settings: ProbeSettings) -> Iterator[Resources]:
    """Write down that a worker process has opened and closed its resources."""
    ledger = Ledger(settings.ledger)
    if "PROBE_HANG_AT_OPEN" in os.environ:
        ledger.write("opening", str(os.getpid()))
        hang()
    ledger.write("open", str(os.getpid()))
    yield Resources(ledger)
    ledger.write("close", str(os.getpid()))
    if "PROBE_HANG_AT_CLOSE" in os.environ:
        hang()


class Scribe(Observer):
    """Writes down what it is told, by the job's id, or by the place of an error. May hang when a job has succeeded."""

    def note(self, told: Observation) -> None:
        name = told.context.job_id if told.context is not None else told.outcome
        Ledger(Path(os.environ["PROBE_LEDGER"])).write(f"told {told.event}", name)

    started = failed = retried = died = stalled = error = note

    def succeeded(self, told: Observation) -> None:
        self.note(told)
        if os.environ["PROBE_OBSERVER"] == "hangs":
            hang()


service = Service("probe", lifespan=open_resources, observers=[Scribe()] if "PROBE_OBSERVER" in os.environ else [])


@service.actor(
    Probe,
    retry=fixed(1, attempts=3, jitter=0),
    time_limit=seconds(float(os.environ.get("PROBE_TIME_LIMIT", "20"))),
    periodic=cron(os.environ["PROBE_PERIODIC"]) if "PROBE_PERIODIC" in os.environ else None,
)
def probe(job: Probe, context: Context[Resources]) -> dict[str, object]:
    """Do as told."""
    ledger = context.resources.ledger
    ledger.write("start", job.name, context.attempt)
    for number in range(job.children):
        context.send(Probe(name=f"{job.name}/{number}", then=job.children_then))
    deadline = time.monotonic() + job.seconds
    while time.monotonic() < deadline:
        time.sleep(0.01)
    if context.attempt < job.until_attempt and not (job.once and ledger.counts("start")[job.name] > 1):
        _misbehave(job.then)
    ledger.write("end", job.name, context.attempt)
    return {"name": job.name, "attempt": context.attempt}


@service.actor(
    Call,
    retry=fixed(1, attempts=3, jitter=0),
    breaker=CircuitBreaker("dependency", failures=4, pause=seconds(2), longest=seconds(2)),
)
def call(job: Call, context: Context[Resources]) -> None:
    """Do it, or find it down."""
    ledger = context.resources.ledger
    ledger.write("start", job.name, context.attempt)
    if (ledger.path.parent / "outage").exists():
        raise TransientError("no answer")
    ledger.write("end", job.name, context.attempt)


@service.actor(Daily, retry=fixed(1, attempts=3, jitter=0))
def daily(job: Daily, context: Context[Resources]) -> None:
    """Die at the first run, fail at the second, end at the third."""
    ledger = context.resources.ledger
    ledger.write("daily", job.run, context.attempt)
    _misbehave({1: "die", 2: "fail"}.get(len(ledger.entries("daily")), "return"))
    ledger.write("end", "daily", context.attempt)


@service.actor(Stuck, retry=fixed(1, attempts=3, jitter=0), time_limit=seconds(1))
def stuck(job: Stuck, context: Context[Resources]) -> None:
    """Do as told."""
    ledger = context.resources.ledger
    ledger.write("start", job.name, context.attempt)
    if ledger.counts("start")[job.name] == 1:
        _get_stuck(job.how)
    ledger.write("end", job.name, context.attempt)


def _get_stuck(how: str) -> None:
    match how:
        case "lock":
            lock = threading.Lock()
            lock.acquire()
            lock.acquire()
        case "asyncio":
            asyncio.run(asyncio.Event().wait())
        case "subprocess":
            subprocess.run(["sleep", "25"])
        case "ignored":
            while True:
                try:
                    hang()
                except BaseException:  # noqa: BLE001, RUF100  the mistake that is tried here
                    continue
        case "frozen":
            ctypes.PyDLL(None).sleep(60)  # keeps the interpreter's lock


def _misbehave(how: str) -> None:
    match how:
        case "return":
            return
        case "block":
            time.sleep(60)  # as a C library does, which no interrupt reaches
        case "fail":
            raise TransientError("told to fail")
        case "permanent":
            raise PermanentError("told to give up")
        case "snooze":
            raise Snooze(delay=1)
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            hang()
        case "hang in a pool":
            with ThreadPoolExecutor() as pool:
                pool.submit(hang).result()


def hang() -> None:
    """Never return."""
    while True:
        time.sleep(0.01)


def broker() -> None:
    """What the dramatiq command calls."""
    with exit_if_misconfigured():
        set_broker(service.build(load_platform(), ProbeSettings.load()))
