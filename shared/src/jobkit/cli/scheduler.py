"""``jobkit scheduler``: sends the jobs of all schedules when they are due."""

import logging
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from queue import SimpleQueue
from typing import Final

from jobkit.access import Access, Check
from jobkit.broker.connection import ConnectionSettings
from jobkit.broker.declarer import Declarer
from jobkit.broker.detours import ways_to
from jobkit.broker.sender import Sender
from jobkit.cli.platform import connection, platform, prepare_health
from jobkit.errors import StoreUnavailable
from jobkit.middleware.logs import configure_logging
from jobkit.middleware.sign_of_life import SignOfLife
from jobkit.refusals import LOGIN, WRITING, Refusals
from jobkit.schedule.registry import RedisSchedules
from jobkit.schedule.scheduler import STORE, Scheduler
from jobkit.settings import PlatformSettings, exit_if_misconfigured, unknown_variables
from jobkit.store.redis_client import RedisClient
from jobkit.store.redis_server import RedisServer

#: Seconds between two renewals of the sign of life, and after which a round hangs and none is made.
_RENEWAL: Final = 5.0
_LONGEST_ROUND: Final = 300.0

log = logging.getLogger(__name__)


def run() -> None:
    """Send until SIGTERM."""
    settings = platform()
    prepare_health(settings)
    configure_logging(settings.log_format, settings.log_level)
    registry = RedisSchedules(settings.store_url, settings.store_timeout_seconds, settings.namespace)
    broker = connection(settings, "scheduler")
    refusals = Refusals()
    access = _access(settings, registry, broker, refusals)
    with exit_if_misconfigured():
        access.demand()
    for line in unknown_variables(type(settings)):
        log.warning("%s", line)
    timeout, declarer = settings.send_timeout_seconds, Declarer(settings.declare)
    sender = Sender(broker, app_id="scheduler", timeout=timeout, refusals=refusals, declarer=declarer)
    stop, scheduler = stop_on_signals(), Scheduler(registry, sender, refusals=refusals)
    bound = timedelta(seconds=settings.refusal_limit_seconds)

    sign = SignOfLife(settings.health_folder, "scheduler") if settings.health_folder else None

    rounds = _Rounds()
    if sign is not None:
        show = partial(_show_life, sign, stop, rounds, lambda: refusals.problems(bound))
        threading.Thread(target=show, name="jobkit-health", daemon=True).start()

    def alive() -> None:
        rounds.last = time.monotonic()
        if scheduler.waits or refusals.longest():
            access.look()

    scheduler.run(stop, alive)
    if sign is not None:
        sign.remove()
    sender.close()


@dataclass
class _Rounds:
    """When the scheduler began its last round, by the monotonic clock."""

    last: float = field(default_factory=time.monotonic)


def _show_life(sign: SignOfLife, stop: threading.Event, rounds: _Rounds, problems: Callable[[], list[str]]) -> None:
    """Renew the sign of life beside the rounds: a round that waits for a silent broker may outlast a sign."""
    while not stop.wait(_RENEWAL):
        if time.monotonic() - rounds.last < _LONGEST_ROUND:
            sign.renew(problems())


def _access(
    settings: PlatformSettings, registry: RedisSchedules, broker: ConnectionSettings, refusals: Refusals
) -> Access:
    server = RedisServer(RedisClient(settings.store_url, settings.store_timeout_seconds))
    checks: dict[str, Check] = {
        "the kind of job store": server.refuse_cluster,
        STORE: registry.check,
    }

    def write() -> None:
        try:
            services = {schedule.service for schedule in registry.schedules()}
        except StoreUnavailable:  # an outage: whom it sends to is not known yet
            return
        broker.demand_writing(*map(ways_to, sorted(services)))

    return Access(checks, refusals, costly={LOGIN: broker.demand, WRITING: write})


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and SIGINT set."""
    # A handler that set the event itself could interrupt the wait for it while that holds the event's lock, and wait
    # for ever. A simple queue is made for that.
    stop, told = threading.Event(), SimpleQueue[int]()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _frame: told.put(number))

    def wait() -> None:
        told.get()
        stop.set()

    threading.Thread(target=wait, name="jobkit-stop", daemon=True).start()
    return stop
