"""The broker of the benchmark's service, where ``jobkit worker`` looks for it.

As shipped, but for two variables that ask what a guarantee costs: ``BENCH_STORE=memory`` keeps the records in the
worker process, and ``BENCH_BREAKER=1`` gives the actor a circuit breaker.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from bench_job import work
from dramatiq import set_broker
from load_jobkit import LoadJob

from jobkit.breaker.breaker import CircuitBreaker
from jobkit.context import Context
from jobkit.service import Service
from jobkit.settings import load_platform
from load_service.settings import LoadSettings


@contextmanager
def no_resources(_settings: LoadSettings) -> Iterator[None]:
    """Open nothing."""
    yield


service = Service("load", lifespan=no_resources)


@service.actor(LoadJob, breaker=CircuitBreaker("load") if os.environ.get("BENCH_BREAKER") == "1" else None)
def job(job: LoadJob, _context: Context[None]) -> None:
    """Write down that it ran."""
    work(job.sent, job.seconds)


def broker() -> None:
    """What the worker calls."""
    if os.environ.get("BENCH_STORE") == "memory":  # there is no setting for it: no job would be protected
        from unittest.mock import patch  # neither is imported otherwise: their memory would be counted as jobkit's

        from jobkit.store.memory import MemoryStore

        with patch("jobkit.service.RedisStore", lambda *_, **__: MemoryStore()):
            set_broker(service.build(load_platform(), LoadSettings.load()))
    else:
        set_broker(service.build(load_platform(), LoadSettings.load()))
