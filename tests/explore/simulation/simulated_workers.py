"""Worker processes and their threads, which walk the real path one effect at a time."""

import math
import threading
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, Final, Protocol

from dramatiq import Message
from simulated_queue import Broker, Connection, Waiting

from jobkit.effects import Effect, Pause, Run, Steps
from jobkit.errors import TransientError
from jobkit.execution import Decision, Execution
from jobkit.leases import LeaseKeeper
from jobkit.middleware.idempotency import Idempotency
from jobkit.middleware.retries import Retries
from jobkit.patience import Patience
from jobkit.process import Begun, Identity
from jobkit.retry import fixed
from jobkit.run.path import Path, Rules
from jobkit.store.base import GENERATION, JobKey
from jobkit.store.base import Process as Described
from jobkit.store.memory import MemoryStore
from jobkit.waits import Limits

#: Seconds.
TTL: Final = 15.0
RENEWAL: Final = TTL / 3
RETRY: Final = 5.0

ATTEMPTS: Final = 3
MAX_CRASHES: Final = 3

RULES: Final = Rules(fixed(RETRY, attempts=ATTEMPTS, jitter=0, retry_on=TransientError), timedelta(seconds=30), None)

#: Makes a mistake in the path of a thread.
Bend = Callable[["Thread", Steps[Decision]], Steps[Decision]]


class Host(Protocol):
    """The world, as its processes see it."""

    now: float
    store: MemoryStore
    broker: Broker

    def name_process(self) -> int:
        """Return a number for a process that starts."""

    def tell(self, line: str) -> None:
        """Add a line to the story."""


class Thread:
    """A worker thread: the path that it walks, and the effect that it has reached.

    Attributes:
        running: The steps of the job that are left while it runs; None otherwise.
        interrupted: Its lease has gone to another worker.
        wakes_at: When its pause, its work or the delay of its effect is over.
        is_delayed: Whether its effect has been delayed.
        has_run: Whether its job was about to run, or has run.
    """

    def __init__(self, process: "Process", number: int) -> None:
        self.process, self.number = process, number
        self.name = f"process {process.number}, thread {number}"
        self._clear()

    def _clear(self) -> None:
        self.message: Message[Any] | None = None
        self.connection: Connection | None = None
        self.execution: Execution | None = None
        self.steps: Steps[Decision] | None = None
        self.effect: Effect | None = None
        self.running: list[str] | None = None
        self.interrupted = False
        self.wakes_at = 0.0
        self.is_delayed = False
        self.has_run = False

    def begin(self, delivery: Waiting, connection: Connection, bend: Bend) -> None:
        self._clear()
        self.message, self.connection = delivery.message, connection
        message = delivery.message
        key = JobKey.of(message.queue_name, message.actor_name, message.message_id)
        owner = self.process.keeper.owner()
        self.execution = Execution(message, key, owner, thread=id(self), is_stale=lambda: connection.is_lost)
        self.execution.redelivered = delivery.redelivered
        self.steps = bend(self, self.process.path.walk(self.execution, RULES))
        self.go_on(None, None)

    def go_on(self, answer: object, error: BaseException | None) -> None:
        """Walk to the next effect, or to the end."""
        assert self.steps is not None
        self.is_delayed = False
        try:
            self.effect = self.steps.send(answer) if error is None else self.steps.throw(error)
        except StopIteration as end:
            self._end(end.value)
            return
        self.has_run = self.has_run or isinstance(self.effect, Run)
        if isinstance(self.effect, Pause):
            self.sleep(self.effect.seconds)

    def sleep(self, seconds: float) -> None:
        self.wakes_at = self.process.world.now + seconds

    @property
    def is_awake(self) -> bool:
        if isinstance(self.effect, Pause) and self.effect.unless.is_set():
            return True
        return self.effect is not None and (self.wakes_at <= self.process.world.now or self.interrupted)

    def _end(self, decision: Decision) -> None:
        world, message, connection, execution = self.process.world, self.message, self.connection, self.execution
        assert message is not None
        assert connection is not None
        assert execution is not None
        ack = decision.is_final
        world.tell(f"{self.name}: {message.message_id} is {decision.verdict.value}, {'acked' if ack else 'returned'}")
        world.broker.settle(connection, message, ack=ack)
        self._clear()


def _describe(identity: Identity) -> Described:
    return Described(identity.name, "work", "host", 1, ("work",), GENERATION, 0)


class Process:
    """A worker process: the objects that its threads share."""

    def __init__(self, world: "Host", number: int, threads: int) -> None:
        self.world, self.number = world, number
        self.connection = Connection()
        self.stopping, self.over = stopping, over = threading.Event(), threading.Event()
        self._interrupts = SimpleNamespace(interrupt=self._interrupt)
        patience = Patience(stopping, over)
        self.begun = Begun(bytearray(8 * threads))
        self.identity = Identity(f"process-{world.name_process()}", self.begun)
        self.keeper = LeaseKeeper(world.store, self._interrupts, timedelta(seconds=TTL), _describe)  # type: ignore[arg-type]
        self.keeper._identity = self.identity
        self.keeper.start = lambda: None  # type: ignore[method-assign]  # the world calls it
        self.idempotency = Idempotency(
            world.store,
            world.broker,
            patience,
            lambda: False,
            max_crashes=MAX_CRASHES,
            clock=lambda: world.now,
        )
        self.path = Path(
            self.idempotency,
            None,  # type: ignore[arg-type]  # no actor here has a breaker
            Retries(world.broker, patience, clock=lambda: world.now),
            self.keeper,
            patience,
            Limits(),
        )
        self.threads = [Thread(self, number) for number in range(threads)]
        self.frozen_until = 0.0
        self.ends_at = math.inf

    @property
    def is_idle(self) -> bool:
        return all(thread.effect is None for thread in self.threads)

    def renew(self) -> None:
        if self.world.now >= self.frozen_until:
            self.keeper._renew(say_so=False)

    def _interrupt(self, thread: int, kind: type[BaseException]) -> bool:
        for one in self.threads:
            if id(one) == thread and one.running is not None:
                one.interrupted = True
                return True
        return False
