"""A service for tests whose effect is in PostgreSQL, with the inbox or without it."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from dramatiq import set_broker
from ledger import Ledger
from pydantic_settings import SettingsConfigDict

from jobkit.context import Context
from jobkit.contracts import Job
from jobkit.inbox import Inbox
from jobkit.service import Service
from jobkit.settings import ServiceSettings, exit_if_misconfigured, load_platform

INBOX = Inbox()


class Credit(Job, queue="credit"):
    """Add a row under the name. The first run of each name then waits to be killed."""

    name: str
    inbox: bool


class CreditSettings(ServiceSettings):
    """Where the rows and the ledger are."""

    model_config = SettingsConfigDict(env_prefix="CREDIT_", extra="ignore", frozen=True)
    database: str
    ledger: Path


@dataclass(frozen=True)
class Resources:
    """What the actor uses."""

    database: str
    ledger: Ledger


@contextmanager
def open_resources(settings: CreditSettings) -> Iterator[Resources]:
    """Make the inbox's table."""
    with psycopg.connect(settings.database) as connection:
        INBOX.create(connection)
    ledger = Ledger(settings.ledger)
    ledger.write("open", str(os.getpid()))
    yield Resources(settings.database, ledger)


service = Service("credit", lifespan=open_resources)


@service.actor(Credit)
def credit(job: Credit, context: Context[Resources]) -> dict[str, object]:
    """Commit the effect; its record is not written before this function returns."""
    ledger = context.resources.ledger

    with psycopg.connect(context.resources.database) as transaction:

        def effect() -> int:
            transaction.execute("INSERT INTO effects VALUES (%s)", (job.name,))
            return os.getpid()

        if job.inbox:
            outcome = INBOX.once(transaction, f"{job.actor}/{context.job_id}", effect)
            result: dict[str, object] = {"done_by": outcome.result, "repeated": outcome.repeated}
        else:
            result = {"done_by": effect()}
    ledger.write("committed", job.name)
    if ledger.counts("committed")[job.name] == 1:
        time.sleep(60)
    ledger.write("end", job.name)
    return result


def broker() -> None:
    """What the dramatiq command calls."""
    with exit_if_misconfigured():
        set_broker(service.build(load_platform(), CreditSettings.load()))
