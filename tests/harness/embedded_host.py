"""A program that runs a worker inside itself, as a child of another, and goes on when the worker has stopped."""

import contextlib
import signal
import sys
import time
from datetime import timedelta

import dramatiq

from jobkit.broker.memory import MemoryExchange
from jobkit.middleware import shutdown
from jobkit.service import Service
from jobkit.settings import PlatformSettings, ServiceSettings
from jobkit.store.memory import MemoryStore

#: The host's own exit status.
STATUS = 7


def run() -> None:
    """Start a worker, stop it, and end with ``STATUS`` long after a worker's own process would have been ended."""
    shutdown.STOP_MARGIN = timedelta(seconds=0.1)  # type: ignore[misc]  # so that it is over soon
    shutdown._END_TIME = 0.1  # type: ignore[misc]  # the same
    service: Service[ServiceSettings, None] = Service("host", lifespan=lambda _: contextlib.nullcontext())
    settings = ServiceSettings(stop_limit_seconds=0)
    broker = service.embed(MemoryExchange(), MemoryStore(), PlatformSettings(environment="test"), settings)
    worker = dramatiq.Worker(broker, worker_threads=1, worker_timeout=10)
    worker.start()
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        sys.exit("the worker has taken the host's signal")
    worker.stop()
    time.sleep(1)
    sys.exit(STATUS)
