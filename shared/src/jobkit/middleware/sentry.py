"""Error reports: one for each job that died, none for an attempt that will be repeated."""

import logging
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import sentry_sdk
from dramatiq import Broker
from dramatiq.middleware import Middleware
from sentry_sdk.integrations.dramatiq import DramatiqIntegration
from sentry_sdk.integrations.logging import LoggingIntegration
from sentry_sdk.transport import Transport

from jobkit.broker.rabbitmq import DeathHook
from jobkit.deadletters import Failure
from jobkit.errors import text_of
from jobkit.execution import Execution, Verdict

log = logging.getLogger(__name__)

#: Seconds that a worker which ends gives its last reports.
FLUSH_TIMEOUT = 2.0


@runtime_checkable
class TellsOfDeaths(Protocol):
    """A broker that tells of messages which died before any actor saw them."""

    death_hooks: list[DeathHook]


class Sentry(Middleware):
    """Reports the exception of each job that became a dead letter, with job id, actor, queue and attempt.

    Sentry's own integration reports every attempt, and its logging integration the same error once more; both stay off.

    Args:
        dsn: Where to.
        environment: As Sentry shows it.
        transport: In place of the network, for tests.
    """

    def __init__(self, dsn: str, environment: str, transport: type[Transport] | None = None) -> None:
        self._dsn = dsn
        self._environment = environment
        self._transport = transport

    def after_process_boot(self, broker: Broker) -> None:
        sentry_sdk.init(
            dsn=self._dsn,
            environment=self._environment,
            disabled_integrations=[DramatiqIntegration(), LoggingIntegration()],
            include_local_variables=False,  # a payload may hold what nobody should read
            transport=self._transport,
        )
        if isinstance(broker, TellsOfDeaths):
            broker.death_hooks.append(self._report_unseen)

    def scope(self, execution: Execution) -> Iterator[None]:
        """Give a job a scope of its own: what one leaves behind, its breadcrumbs, user and tags, is not another's."""
        with sentry_sdk.isolation_scope() as scope:
            scope.clear_breadcrumbs()
            try:
                yield
            finally:
                self._report(execution)

    def _report(self, execution: Execution) -> None:
        ended = execution.ended
        if ended is None or ended.verdict is not Verdict.DIED or ended.error is None:
            return
        with sentry_sdk.new_scope() as scope:
            scope.set_tag("actor", execution.job.actor)
            scope.set_tag("queue", execution.message.queue_name)
            scope.set_tag("reason", str(ended.reason))
            scope.set_context("job", {"id": execution.job.id, "attempt": execution.attempt})
            scope.set_tag("job_id", execution.job.id)
            scope.set_tag("attempt", str(execution.attempt))
            _capture(ended.error)

    def _report_unseen(self, error: BaseException, failure: Failure, actor: str, job_id: str) -> None:
        with sentry_sdk.new_scope() as scope:
            for name, value in {
                "actor": actor,
                "queue": failure.queue,
                "reason": failure.reason,
                "job_id": job_id,
            }.items():
                scope.set_tag(name, value)
            _capture(error)

    def after_worker_shutdown(self, broker: Broker, worker: Any) -> None:  # Any: Dramatiq's Worker, not used
        sentry_sdk.flush(timeout=FLUSH_TIMEOUT)


def _capture(error: BaseException) -> None:
    try:
        sentry_sdk.capture_exception(error)
    except BaseException:  # it asks the exception for its text and its frames, which may raise anything
        log.exception("an error could not be reported: %s", text_of(error))
