"""Jobs that run by the clock: cron expressions, where schedules are kept, and the process that fires them."""

from jobkit.contracts.tick import Tick, due_time
from jobkit.schedule.cron import Cron, cron

__all__ = ["Cron", "Tick", "cron", "due_time"]
