"""The jobs of the two services. This code runs on every version of jobkit that the upgrade tests know.

What differs between versions is chosen in one place, at the top.
"""

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from generations import contracts_of
from ledger import Ledger
from pydantic import Field

import jobkit
from jobkit import errors
from jobkit.breaker.breaker import CircuitBreaker
from jobkit.context import Context
from jobkit.contracts import Job
from jobkit.retry import fixed
from jobkit.schedule import cron
from jobkit.service import Service
from jobkit.settings import ServiceSettings

#: The error that runs a job again without using an attempt: ``Retry`` in 0.1, ``Snooze`` since then.
SNOOZE = getattr(errors, "Snooze", errors.Retry)

#: Seconds between two attempts, and of a snooze.
RETRY_WAIT = float(os.environ.get("UPGRADE_RETRY_WAIT", "3"))

#: Attempts of a job that always fails.
ATTEMPTS = 3

#: Seconds that the breaker stays open before the next probe.
PAUSE = 2

#: The schedule of ``ShopTick``: rare, so that no tick falls into a test unless the test asks for it.
DAILY = cron("0 0 * * *")

#: The name of ``ShopTick`` in the ledger.
TICK = "tick"

#: The breaker of ``ShopCall``, by the name that the store has for it.
BREAKER = "shop/dependency"

#: The file beside the ledger that makes every ``Call`` fail while it exists.
OUTAGE = "outage"


class ShopTask(Job, queue="shop", lanes=("high", "normal")):
    """Record that it ran, and do on its way what its payload says.

    Attributes:
        name: Its name in the ledger.
        seconds: How long it runs.
        first: What its first run does instead of ending: ``fail``, ``snooze`` or ``give up``.
        always: Whether every run does that.
        children: How many jobs it sends to the other service.
    """

    name: str
    seconds: float = 0.0
    first: str = ""
    always: bool = False
    children: int = 0


class PostTask(Job, queue="post", lanes=("high", "normal")):
    """The same for the other service."""

    name: str
    seconds: float = 0.0
    first: str = ""
    always: bool = False
    children: int = 0


class ShopCall(Job, queue="shop"):
    """Use a dependency that is down while the file ``outage`` exists."""

    name: str


class ShopTick(Job, queue="shop"):
    """Sent by the scheduler. Its first run fails.

    Attributes:
        stamp: Made for each tick, by the worker or, in 0.1, when the schedule is announced.
    """

    stamp: str = Field(default_factory=lambda: uuid.uuid4().hex)


Task = TypeVar("Task", ShopTask, PostTask)

#: The contracts that change, in the generation that this process has.
ACCOUNTING = contracts_of("new" if os.environ.get("UPGRADE_CONTRACTS") == "new" else "old")

#: The contracts by the name that a client is told.
CONTRACTS: dict[str, type[Job]] = {
    "ShopTask": ShopTask,
    "PostTask": PostTask,
    "ShopCall": ShopCall,
    "ShopTick": ShopTick,
    **ACCOUNTING,
}


@dataclass(frozen=True)
class Resources:
    """Where a worker writes.

    Attributes:
        ledger: What happened, and when.
        marks: A file for each job that has misbehaved once.
    """

    ledger: Ledger
    marks: Path


@contextmanager
def open_resources(_settings: ServiceSettings) -> Iterator[Resources]:
    """Record which jobkit this process runs."""
    folder = Path(os.environ["UPGRADE_FOLDER"])
    ledger = Ledger(folder / "ledger")
    ledger.write("open", str(Path(jobkit.__file__).parents[1]))
    yield Resources(ledger, folder / "marks")


def declare_task(service: Service[ServiceSettings, Resources], contract: type[Task], child: type[Job]) -> None:
    """Declare the actor of a service's tasks, which send jobs of ``child``."""

    @service.actor(contract, retry=fixed(RETRY_WAIT, attempts=ATTEMPTS, jitter=0), time_limit=timedelta(seconds=30))
    def task(job: Task, context: Context[Resources]) -> dict[str, object]:
        ledger = context.resources.ledger
        ledger.write("start", job.name, context.attempt)
        for number in range(job.children):
            context.send(child.model_validate({"name": f"{job.name}/{number}"}))
        _work(job.seconds)
        if job.first and (job.always or _is_first(context.resources.marks / job.name)):
            _misbehave(job.first)
        ledger.write("end", job.name, context.attempt)
        return {"name": job.name}


def declare_rest(service: Service[ServiceSettings, Resources]) -> None:
    """Declare the actors that only the shop has."""
    pause = timedelta(seconds=PAUSE)

    @service.actor(
        ShopCall,
        retry=fixed(1, attempts=ATTEMPTS, jitter=0),
        time_limit=timedelta(seconds=30),
        breaker=CircuitBreaker(BREAKER.partition("/")[2], failures=3, pause=pause, longest=pause),
    )
    def call(job: ShopCall, context: Context[Resources]) -> None:
        ledger = context.resources.ledger
        ledger.write("start", job.name, context.attempt)
        if (ledger.path.parent / OUTAGE).exists():
            raise errors.TransientError("no answer")
        ledger.write("end", job.name, context.attempt)

    for contract in ACCOUNTING.values():

        @service.actor(contract, retry=fixed(RETRY_WAIT, attempts=ATTEMPTS, jitter=0), time_limit=timedelta(seconds=30))
        def account(job: Job, context: Context[Resources]) -> None:
            fields = job.model_dump()
            if fields.get("first") and _is_first(context.resources.marks / fields["name"]):
                _misbehave(fields["first"])
            context.resources.ledger.write("end", f"{fields['name']}: {fields.get('note', 'no note')}", context.attempt)

    @service.actor(ShopTick, periodic=DAILY, time_limit=timedelta(seconds=30))
    def tick(job: ShopTick, context: Context[Resources]) -> None:
        assert job.stamp
        if _is_first(context.resources.marks / TICK):
            raise errors.TransientError("told to fail")
        context.resources.ledger.write("end", TICK)


def _work(seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:  # in Python code, where an interrupt can reach it
        time.sleep(0.01)


def _is_first(mark: Path) -> bool:
    mark.parent.mkdir(exist_ok=True)
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _misbehave(how: str) -> None:
    match how:
        case "fail":
            raise errors.TransientError("told to fail")
        case "snooze":
            raise SNOOZE(delay=RETRY_WAIT)
        case "give up":
            raise errors.PermanentError("told to give up")
