"""Takes deliveries along the path in Dramatiq's worker: the one middleware around every job."""

import logging
from datetime import timedelta
from typing import Any

from dramatiq import Actor, Broker
from dramatiq.broker import MessageProxy
from dramatiq.middleware import Middleware, SkipMessage

from jobkit.effects import Outcome, Performs, Walk
from jobkit.execution import Decision, Verdict, begin, end, settle
from jobkit.middleware.retries import DEFAULT_POLICY
from jobkit.middleware.time_limit import DEFAULT_TIME_LIMIT
from jobkit.run.path import Path, Rules

log = logging.getLogger(__name__)


class Carrier(Middleware):
    """Begins the path in the hook before a job, and ends it in the hook after.

    Middleware from elsewhere that is added later gets its own hooks in between: next to the job, and only for jobs that
    run. If it skips a job, that is done; if it rejects it, it is dead.

    Args:
        path: The steps.
        perform: Carries them out.
    """

    def __init__(self, path: Path, perform: Performs) -> None:
        self._path = path
        self._perform = perform

    @property
    def actor_options(self) -> set[str]:
        return {"retry", "time_limit", "breaker", "dead_letter"}

    def before_worker_boot(self, broker: Broker, worker: Any) -> None:  # Any: Dramatiq's Worker, not used
        self._path.keeper.start()
        breakers = (rules_of(actor).breaker for actor in broker.actors.values())
        self._path.breakers.watch(breaker for breaker in breakers if breaker is not None)

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        execution, actor = begin(message, self._path.keeper.owner()), broker.get_actor(message.actor_name)
        execution.keeps_dead_letter = actor.options.get("dead_letter", True)
        walk = Walk(self._path.walk(execution, rules_of(actor)), self._perform)
        message.__dict__["walk"] = walk
        if not self._go_on(message, walk, None):
            raise SkipMessage("it does not run now")

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: object = None,
        exception: BaseException | None = None,
    ) -> None:
        walk = message.__dict__.pop("walk", None)
        if walk is None:
            # Something before this has raised: the job has no lease, and goes back to the queue.
            settle(message, Decision(Verdict.HANDED_BACK, error=exception, stumbled=True))
            self._rest()
            return
        self._go_on(message, walk, Outcome(exception, rejected=message.failed))
        end()

    def after_skip_message(self, broker: Broker, message: MessageProxy) -> None:
        walk = message.__dict__.pop("walk", None)
        if walk is not None and not walk.ended:
            self._go_on(message, walk, Outcome(SkipMessage(), skipped=True, rejected=message.failed))
        end()

    def after_worker_shutdown(self, broker: Broker, worker: Any) -> None:  # Any: Dramatiq's Worker, not used
        self._path.keeper.abandon()

    def _rest(self) -> None:
        # What goes back comes again at once: without a pause this would spin.
        self._perform(self._path.patience.rest())

    def _go_on(self, message: MessageProxy, walk: Walk, outcome: Outcome | None) -> bool:
        """Walk as far as possible; False once the path has ended, and the delivery is settled."""
        try:
            runs = walk.go_on(outcome)
        except BaseException:  # this thread and the message outlive whatever it is
            log.exception("a job's path has broken off, the job goes back to the queue")
            self._rest()
            return False
        if not runs and isinstance(walk.result, Decision):
            settle(message, walk.result)
        return runs


def rules_of(actor: Actor[Any, Any]) -> Rules:
    """Return what an actor was declared with."""
    options = actor.options
    limit: timedelta = options.get("time_limit", DEFAULT_TIME_LIMIT)
    return Rules(options.get("retry", DEFAULT_POLICY), limit, options.get("breaker"))
