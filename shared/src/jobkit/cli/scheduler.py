"""``jobkit scheduler``: sends the jobs of all schedules when they are due."""

import signal
import threading
from queue import SimpleQueue

import pika.exceptions
from redis.exceptions import AuthenticationError, AuthorizationError, NoPermissionError

from jobkit.broker.connection import ConnectionSettings, is_misconfigured
from jobkit.broker.sender import Sender
from jobkit.cli.platform import connection, platform, prepare_health
from jobkit.errors import SettingsError, StoreUnavailable
from jobkit.middleware.logs import configure_logging
from jobkit.middleware.sign_of_life import SignOfLife
from jobkit.schedule.registry import RedisSchedules
from jobkit.schedule.scheduler import Scheduler
from jobkit.settings import exit_if_misconfigured

#: Waiting cannot help: only a person can give the right.
_REFUSALS = (AuthenticationError, AuthorizationError, NoPermissionError)


def run() -> None:
    """Send until SIGTERM."""
    settings = platform()
    prepare_health(settings)
    configure_logging(settings.log_format, settings.log_level)
    registry = RedisSchedules(settings.store_url, settings.store_timeout_seconds)
    link = connection(settings, "scheduler")
    with exit_if_misconfigured():
        refuse_what_refuses_us(registry, link)
    sender = Sender(link, app_id="scheduler", timeout=settings.send_timeout_seconds)
    stop = stop_on_signals()
    if settings.health_folder:
        sign = SignOfLife(settings.health_folder, "scheduler")
        Scheduler(registry, sender).run(stop, alive=sign.renew)
        sign.remove()
    else:
        Scheduler(registry, sender).run(stop)
    sender.close()


def refuse_what_refuses_us(registry: RedisSchedules, link: ConnectionSettings) -> None:
    """Raise ``SettingsError`` if the store or the broker refuses this process. Outages are waited out later."""
    try:
        registry.check()
    except StoreUnavailable as outage:
        if isinstance(outage.__cause__, _REFUSALS):
            raise SettingsError(str(outage)) from None
    try:
        link.open().close()
    except (pika.exceptions.AMQPError, OSError) as error:
        if is_misconfigured(error):
            raise SettingsError(link.describe(error)) from None


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
