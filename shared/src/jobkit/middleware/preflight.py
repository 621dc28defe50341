"""Combinations of settings that would break a guarantee are refused before the first job runs."""

import logging
from datetime import timedelta
from typing import Any

from dramatiq import Actor, Broker, Worker
from dramatiq.middleware import Middleware

from jobkit.middleware.retries import DEFAULT_POLICY
from jobkit.middleware.time_limit import DEFAULT_TIME_LIMIT
from jobkit.retry import RetryPolicy
from jobkit.settings import EXIT_MISCONFIGURED

#: Between the end of the last job and the kill: to hand back, record and flush.
STOP_MARGIN = timedelta(seconds=5)

log = logging.getLogger(__name__)


class Preflight(Middleware):
    """Ends the worker with one line per problem if an actor that it runs does not fit its settings.

    Args:
        stop_grace: From SIGTERM to SIGKILL.
        record_ttl: How long records last.
        variables: The names of the two settings, for the message.
    """

    def __init__(self, *, stop_grace: timedelta, record_ttl: timedelta, variables: tuple[str, str]) -> None:
        self._stop_grace = stop_grace
        self._record_ttl = record_ttl
        self._grace_variable, self._ttl_variable = variables

    def before_worker_boot(self, broker: Broker, worker: Worker) -> None:
        consumed = worker.consumer_whitelist
        actors = [actor for actor in broker.actors.values() if not consumed or actor.queue_name in consumed]
        problems = [problem for actor in actors for problem in self.problems(actor)]
        for problem in problems:
            log.critical(problem)
        if problems:
            raise SystemExit(EXIT_MISCONFIGURED)

    def problems(self, actor: Actor[Any, Any]) -> list[str]:
        """What does not fit, in sentences."""
        found = []
        limit: timedelta = actor.options.get("time_limit", DEFAULT_TIME_LIMIT)
        policy: RetryPolicy = actor.options.get("retry", DEFAULT_POLICY)
        if limit + STOP_MARGIN > self._stop_grace:
            found.append(
                f"{self._grace_variable}: {self._stop_grace.total_seconds():.0f} s is too short for {actor.actor_name}"
                f", which may run for {limit.total_seconds():.0f} s: a restart would kill it. "
                f"Set it to {(limit + STOP_MARGIN).total_seconds():.0f} or more, and the container's stop grace with it"
            )
        horizon = policy.horizon + policy.attempts * limit
        if horizon > self._record_ttl:
            found.append(
                f"{self._ttl_variable}: {self._record_ttl.total_seconds():.0f} s is shorter than the "
                f"{horizon.total_seconds():.0f} s that {actor.actor_name} may be retried for: "
                "a late duplicate would run again"
            )
        return found
