"""Jobs that run by the clock: cron expressions, where schedules are kept, and the process that fires them."""

from jobkit.schedule.cron import Cron, cron

__all__ = ["Cron", "cron"]
