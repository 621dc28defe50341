"""``jobkit scheduler``: sends the jobs of all schedules when they are due."""

import signal
import threading

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
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if settings.health_folder:
        Scheduler(registry, sender).run(stop, alive=sign_of_life(settings.health_folder).touch)
    else:
        Scheduler(registry, sender).run(stop)
    sender.close()
