"""Combinations of settings that would break a guarantee are refused before the first job runs."""

import logging
import math
from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Any

from dramatiq import Actor, Broker, Worker
from dramatiq.middleware import Middleware

from jobkit.middleware.retries import DEFAULT_POLICY
from jobkit.middleware.shutdown import STOP_MARGIN
from jobkit.middleware.time_limit import DEFAULT_TIME_LIMIT
from jobkit.nearest import nearest
from jobkit.retry import RetryPolicy
from jobkit.settings import EXIT_MISCONFIGURED, PlatformSettings, ServiceSettings, unknown_variables

log = logging.getLogger(__name__)


class Preflight(Middleware):
    """Ends the worker with one line per problem if an actor that it runs does not fit its settings.

    In development a password that everybody knows is warned of; elsewhere it is a problem.

    Args:
        platform: The settings of all services.
        settings: Those of this one.
        queues: The queues of each actor, its lanes included.
    """

    def __init__(
        self, platform: PlatformSettings, settings: ServiceSettings, queues: Mapping[str, Collection[str]]
    ) -> None:
        self._platform = platform
        self._settings = settings
        self._queues = queues

    def before_worker_boot(self, broker: Broker, worker: Worker) -> None:
        known: set[str] = broker.get_declared_queues()
        consumed = worker.consumer_whitelist or known
        problems = [_unknown(queue, known) for queue in sorted(consumed - known)]
        actors = [a for a in broker.actors.values() if not consumed.isdisjoint(self._queues.get(a.actor_name, known))]
        if not broker.actors:
            problems.append("the service has no actor, so its workers would do nothing: declare one (@service.actor)")
        problems += [problem for actor in actors for problem in self.problems(actor)]
        if self._platform.allows_default_secrets:
            for variable in [*self._platform.default_secrets(), *self._settings.default_secrets()]:
                log.warning("%s: a default password that everybody knows; outside development it is refused", variable)
        else:  # those of the platform are refused when they are read
            problems += self._settings.unsafe_defaults(self._platform.environment)
        for line in unknown_variables(type(self._platform), type(self._settings)):
            log.warning("%s", line)
        for problem in problems:
            log.critical(problem)
        if problems:
            raise SystemExit(EXIT_MISCONFIGURED)

    def problems(self, actor: Actor[Any, Any]) -> list[str]:
        """What does not fit, in sentences."""
        found = []
        name, limit = actor.actor_name, _seconds(actor.options.get("time_limit", DEFAULT_TIME_LIMIT))
        grace, needed = self._settings.stop_grace_seconds, limit + _seconds(STOP_MARGIN)
        if needed > grace and self._settings.stop_limit_seconds is None:
            found.append(
                f"{self._settings.variable('stop_grace_seconds')}: {grace} s is too short for {name}, which may run "
                f"for {limit} s: every restart would interrupt it. Set it and the container's stop grace to {needed} "
                f"or more; or say with {self._settings.variable('stop_limit_seconds')} that a restart may interrupt "
                "jobs, which then start again in another worker"
            )
        policy: RetryPolicy = actor.options.get("retry", DEFAULT_POLICY)
        horizon, ttl = _seconds(policy.horizon) + policy.attempts * limit, self._platform.record_ttl_seconds
        if horizon > ttl:
            found.append(
                f"{self._platform.variable('record_ttl_seconds')}: {ttl} s is shorter than the {horizon} s that {name} "
                "may be retried for: a late duplicate would run again"
            )
        return found


def _unknown(queue: str, known: Collection[str]) -> str:
    meant = nearest(queue, sorted(known))
    hint = f" (did you mean {meant}?)" if meant else ""
    return f"--queue {queue}: there is no such queue{hint}. The service has {', '.join(sorted(known)) or 'none'}"


def _seconds(duration: timedelta) -> int:
    return math.ceil(duration.total_seconds())
