"""``jobkit scheduler``: sends the jobs of all schedules when they are due."""

import signal
import threading
from queue import SimpleQueue

from jobkit.broker.sender import Sender
from jobkit.cli.platform import connection, platform, prepare_health
from jobkit.middleware.health import sign_of_life
from jobkit.middleware.logs import configure_logging
from jobkit.schedule.registry import RedisSchedules
from jobkit.schedule.scheduler import Scheduler


def run() -> None:
    """Send until SIGTERM."""
    settings = platform()
    prepare_health(settings)
    configure_logging(settings.log_format, settings.log_level)
    registry = RedisSchedules(settings.store_url, settings.store_timeout_seconds)
    sender = Sender(connection(settings, "scheduler"), app_id="scheduler", timeout=settings.send_timeout_seconds)
    stop = stop_on_signals()
    if settings.health_folder:
        Scheduler(registry, sender).run(stop, alive=sign_of_life(settings.health_folder).touch)
    else:
        Scheduler(registry, sender).run(stop)
    sender.close()


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
