"""Takes deliveries along the path in Dramatiq's worker: the one middleware around every job."""

import logging
import threading
import time
from datetime import timedelta
from typing import Any

from dramatiq import Actor, Broker
from dramatiq.broker import MessageProxy
from dramatiq.middleware import Middleware, SkipMessage

from jobkit.breaker.breaker import CircuitBreaker
from jobkit.broker.rabbitmq import JobBroker
from jobkit.effects import Effect, Outcome, Performs, Record, Run, Walk, take
from jobkit.execution import Decision, Execution, Verdict, begin, end, postpone, received, settle
from jobkit.middleware.retries import DEFAULT_POLICY
from jobkit.middleware.time_limit import DEFAULT_TIME_LIMIT
from jobkit.run.dispatcher import Dispatcher
from jobkit.run.path import Path, Rules
from jobkit.run.recorder import End, Recorder, Together, commit, singly
from jobkit.run.seams import Seams
from jobkit.run.work_queue import WorkQueue
from jobkit.store.base import Lease

log = logging.getLogger(__name__)


class Carrier(Middleware):
    """Begins the path in the hook before a job, and ends it in the hook after.

    Middleware from elsewhere that is added later gets its own hooks in between: next to the job, and only for jobs that
    run. If it skips a job, that is done; if it rejects it, it is dead.

    Args:
        path: The steps.
        seams: Carry them out.
        together: Surrounds jobs that are recorded together.
    """

    def __init__(
        self,
        path: Path,
        seams: Seams,
        together: Together | None = None,
    ) -> None:
        self._path = path
        self._seams: Seams = seams
        self._perform: Performs = seams
        self._recorder = Recorder(seams, together=together or singly, waits=self._wait_elsewhere)
        self._queue: WorkQueue | None = None

    @property
    def actor_options(self) -> set[str]:
        return {"retry", "time_limit", "breaker", "dead_letter"}

    def before_worker_boot(self, broker: Broker, worker: Any) -> None:  # Any: Dramatiq's Worker, whose queue is ours
        self._path.keeper.start()
        self._recorder.most = 2 * worker.worker_threads
        worker.work_queue = self._queue = self._work_queue(broker)
        if isinstance(broker, JobBroker):
            broker.is_quick = self._queue.is_quick
        self._path.breakers.watch(_breakers_of(broker).values())

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        execution, actor = begin(message, self._path.keeper.owner), broker.get_actor(message.actor_name)
        execution.keeps_dead_letter = actor.options.get("dead_letter", True)
        walk = Walk(self._path.walk(execution, rules_of(actor)), self._perform)
        execution.context = walk.context
        message.__dict__["walk"] = walk
        if not self._go_on(message, walk, until=Run):
            raise SkipMessage("it does not run now")
        message.__dict__["began"] = time.perf_counter()

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
            # Something before this has raised: the job does not run, and goes back to the queue.
            self._let_go(message)
            settle(message, Decision(Verdict.HANDED_BACK, error=exception, stumbled=True))
            self._rest()
            return
        if self._queue is not None:
            seconds = time.perf_counter() - message.__dict__["began"]
            self._queue.note_run(message.actor_name, message.queue_name, seconds)
        self._end(message, walk, Outcome(exception, rejected=message.failed))

    def after_skip_message(self, broker: Broker, message: MessageProxy) -> None:
        walk = message.__dict__.pop("walk", None)
        if walk is not None and not walk.ended:
            self._end(message, walk, Outcome(SkipMessage(), skipped=True, rejected=message.failed))
        self._let_go(message)
        end()

    def after_worker_shutdown(self, broker: Broker, worker: Any) -> None:  # Any: Dramatiq's Worker, not used
        self._path.keeper.abandon()

    def _work_queue(self, broker: Broker) -> WorkQueue:
        keeper, idempotency = self._path.keeper, self._path.idempotency
        dispatcher = Dispatcher(keeper.runs, lambda: not keeper.store_was_away(), keeper.owner, time.monotonic)
        breakers = {name: self._path.breakers.full_name(one) for name, one in _breakers_of(broker).items()}
        return WorkQueue(
            dispatcher,
            self._seams,
            lambda message: received(message, keeper.owner(), breakers.get(message.actor_name, "")),
            idempotency.request,
            getattr(broker, "stopping", threading.Event()),
        )

    def _end(self, message: MessageProxy, walk: Walk, outcome: Outcome) -> None:
        """Walk on to the job's record, which is written together with those of others."""
        if self._go_on(message, walk, outcome, until=Record):
            # Dramatiq rejects what has failed, and settles what does not know how to be settled, as this returns.
            settle_it = message.__dict__.get("settle")
            if message.failed or settle_it is None:
                take(commit([End(walk, lambda: self._settle(message, walk))]), self._perform)
            else:
                postpone(message)
                self._recorder.add(End(walk, lambda: settle_it(message, _result_of(walk))))
        end()

    def _wait_elsewhere(self) -> None:
        if self._queue is not None:
            self._queue.wait_elsewhere()

    def _let_go(self, message: MessageProxy) -> None:
        """Free a lease that was got ahead, for a path that has not begun."""
        execution: Execution | None = message.__dict__.get("execution")
        if execution is not None and isinstance(execution.answer, Lease):
            lease, execution.answer = execution.answer, None
            take(self._path.idempotency.free(lease), self._perform)

    def _settle(self, message: MessageProxy, walk: Walk) -> None:
        """Let Dramatiq settle a delivery whose path has ended."""
        settle(message, _result_of(walk))

    def _rest(self) -> None:
        # What goes back comes again at once: without a pause this would spin.
        self._perform(self._path.patience.rest())

    def _go_on(self, message: MessageProxy, walk: Walk, outcome: Outcome | None = None, *, until: type[Effect]) -> bool:
        """Walk as far as possible; False once the path has ended, and the delivery is settled."""
        try:
            stopped = walk.go_on(outcome, until=until)
        except BaseException:  # this thread and the message outlive whatever it is
            log.exception("a job's path has broken off, the job goes back to the queue")
            self._rest()
            return False
        if not stopped:
            self._settle(message, walk)
        return stopped


def _result_of(walk: Walk) -> Decision:
    """What becomes of a delivery; one whose path has broken off goes back to the queue."""
    return walk.result if isinstance(walk.result, Decision) else Decision(Verdict.HANDED_BACK, stumbled=True)


def _breakers_of(broker: Broker) -> dict[str, CircuitBreaker]:
    """The breakers of actors, by the actor."""
    breakers = {name: rules_of(actor).breaker for name, actor in broker.actors.items()}
    return {name: breaker for name, breaker in breakers.items() if breaker is not None}


def rules_of(actor: Actor[Any, Any]) -> Rules:
    """Return what an actor was declared with."""
    options = actor.options
    limit: timedelta = options.get("time_limit", DEFAULT_TIME_LIMIT)
    return Rules(options.get("retry", DEFAULT_POLICY), limit, options.get("breaker"))
