"""Worker processes and their threads, which walk the real path one effect at a time."""

import itertools
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, Final, Protocol

from dramatiq import Message
from reach import Reach
from simulated_queue import Broker, Connection, Waiting

from jobkit.effects import Effect, Pause, Record, Run, Steps
from jobkit.errors import TransientError
from jobkit.execution import Decision, Execution, Verdict
from jobkit.leases import LeaseKeeper
from jobkit.middleware.idempotency import Idempotency
from jobkit.middleware.retries import Retries
from jobkit.patience import Patience
from jobkit.process import Begun, Identity, size_for
from jobkit.retry import fixed
from jobkit.run.dispatcher import LONGEST_AHEAD, RUNS, Delivery, Dispatcher, claim, drain, tidy
from jobkit.run.path import Path, Rules
from jobkit.run.recorder import End, commit
from jobkit.store.base import GENERATION, JobKey
from jobkit.store.base import Process as Described
from jobkit.store.memory import MemoryStore
from jobkit.waits import Limits

#: Seconds.
TTL: Final = 15.0
RETRY: Final = 5.0

ATTEMPTS: Final = 3
MAX_CRASHES: Final = 3

RULES: Final = Rules(fixed(RETRY, attempts=ATTEMPTS, jitter=0, retry_on=TransientError), timedelta(seconds=30), None)

#: Makes a mistake in the path of a delivery.
Bend = Callable[["Way", Steps[Decision]], Steps[Decision]]


def straight(_way: "Way", steps: Steps[Decision]) -> Steps[Decision]:
    """The path as it is."""
    return steps


@dataclass(frozen=True)
class Mistake:
    """What is wrong in a walk.

    Attributes:
        bend: Changes the path of each delivery.
        spoil: Changes each process as it starts.
    """

    bend: Bend = straight
    spoil: Callable[["Process"], None] = lambda _process: None


#: Nothing is.
RIGHT: Final = Mistake()


class Host(Protocol):
    """The world, as its processes see it."""

    now: float
    store: MemoryStore
    away_until: float
    broker: Broker

    def name_process(self) -> int:
        """Return a number for a process that starts."""

    def tell(self, line: str) -> None:
        """Add a line to the story."""


class Way:
    """A delivery on its path.

    Attributes:
        effect: What its steps have reached.
        has_run: Whether its job was about to run, or has run.
        running: The steps of the job that are left while it runs; None otherwise.
        interrupted: Its lease has gone to another worker.
    """

    def __init__(self, thread: "Thread", arrival: "Arrival", execution: Execution, bend: Bend) -> None:
        self.process, self.name = thread.process, thread.name
        self.message, self.connection, self.execution = arrival.message, arrival.connection, execution
        execution.thread = id(self)
        self.effect: Effect | None = None
        self.has_run = False
        self.running: list[str] | None = None
        self.interrupted = False
        self.steps = bend(self, self.process.path.walk(execution, RULES))
        self.decision = Decision(Verdict.HANDED_BACK)

    def step(self, answer: object = None, error: BaseException | None = None) -> Effect | None:
        """Go on to the next effect."""
        try:
            self.effect = self.steps.send(answer) if error is None else self.steps.throw(error)
        except StopIteration as end:
            self.effect, self.decision = None, end.value
        self.has_run = self.has_run or isinstance(self.effect, Run)
        return self.effect

    def settle(self) -> None:
        """Ack the delivery, or return it."""
        name, ack = self.message.message_id, self.decision.is_final
        world = self.process.world
        world.tell(f"{self.name}: {name} is {self.decision.verdict.value}, {'acked' if ack else 'returned'}")
        world.broker.settle(self.connection, self.message, ack=ack)
        self.process.ways.remove(self)


@dataclass(frozen=True)
class Arrival:
    """What a process has taken from the queue: a message, and the connection over which it came."""

    message: Message[Any]
    connection: Connection


class Walker:
    """Takes steps of one kind after the other, effect by effect.

    Attributes:
        effect: What they have reached; None between them.
        asked_at: When they asked for that.
        wakes_at: When its pause, its work or the delay of its effect is over.
        is_delayed: Whether its effect has been delayed.
    """

    def __init__(self, process: "Process", name: str) -> None:
        self.process, self.name = process, f"process {process.number}, {name}"
        self.steps: Steps[None] | None = None
        self.effect: Effect | None = None
        self.asked_at = self.wakes_at = 0.0
        self.is_delayed = False

    def begin(self, steps: Steps[None]) -> None:
        self.steps = steps
        self.go_on(None, None)

    def begin_with(self, make: Callable[[], Steps[None]]) -> None:
        """Make steps, and begin them."""
        self.begin(make())

    def go_on(self, answer: object, error: BaseException | None) -> None:
        """Walk to the next effect, or to the end."""
        assert self.steps is not None
        self.is_delayed = False
        self.asked_at = self.process.world.now
        try:
            self.effect = self.steps.send(answer) if error is None else self.steps.throw(error)
        except StopIteration:
            self.steps = self.effect = None
            return
        if isinstance(self.effect, Pause):
            self.sleep(self.process.length_of(self.effect.seconds))

    def sleep(self, seconds: float) -> None:
        self.wakes_at = self.process.world.now + seconds

    @property
    def is_awake(self) -> bool:
        if isinstance(self.effect, Pause) and self.effect.unless.is_set():
            return True
        return self.effect is not None and self.wakes_at <= self.process.world.now


class Thread(Walker):
    """A worker thread.

    Attributes:
        way: The delivery that it walks with.
    """

    def __init__(self, process: "Process", number: int) -> None:
        super().__init__(process, f"thread {number}")
        self.way: Way | None = None

    @property
    def is_awake(self) -> bool:
        return super().is_awake or (self.way is not None and self.way.interrupted and self.effect is not None)

    def go_on(self, answer: object, error: BaseException | None) -> None:
        super().go_on(answer, error)
        if self.steps is None:
            self.way = None

    def take(self, bend: Bend) -> None:
        """Take what the dispatcher says, as Dramatiq's worker threads do."""
        dispatcher = self.process.dispatcher
        delivery = dispatcher.take()
        batch = [delivery] if delivery is not None else dispatcher.choose()
        if delivery is None and batch and dispatcher.needs_claim(batch):
            self.begin(claim(dispatcher, batch, self.process.idempotency.request))
        elif batch:
            self.way = Way(self, batch[0].item.arrival, batch[0].execution, bend)
            self.process.ways.append(self.way)
            self.process.world.tell(f"{self.name}: begins with {self.way.message.message_id}")
            self.begin(self._walk(self.way))

    def _walk(self, way: Way) -> Steps[None]:
        answer: object = None
        error: BaseException | None = None
        while (effect := way.step(answer, error)) is not None:
            if isinstance(effect, Record) and way.has_run:
                self.way = None
                yield from self._hand_over(End(way, way.settle))
                return
            try:
                answer, error = (yield effect), None
            except Exception as failure:
                answer, error = None, failure
        way.settle()

    def _hand_over(self, end: End) -> Steps[None]:
        """Record an end, or leave it to the thread that records already."""
        process = self.process
        process.ends.append(end)
        if process.is_led:
            return
        process.is_led = True
        while group := process.ends[:]:
            process.ends.clear()
            yield from process.commit(group)
        process.is_led = False


@dataclass(frozen=True, order=True)
class Item:
    """A place in the order of what was taken."""

    number: int
    arrival: Arrival = field(compare=False)


def _practised() -> Dispatcher:
    """A dispatcher that has seen enough short runs of the one actor."""
    dispatcher = Dispatcher(lambda _: False, lambda: False, str, float)
    for _ in range(RUNS):
        dispatcher.note_run("work", "work", 0.0)
    return dispatcher


#: What every process knows of its actor from the start. Nobody adds to it, so they share it.
_SHORT: Final = _practised()._runs


class Process:
    """A worker process: the objects that its threads share.

    Attributes:
        began_at: When it began.
        beats_at: When it beats next.
        heard_at: When its last beat that was answered was made.
    """

    def __init__(self, world: "Host", number: int, threads: int) -> None:
        self.world, self.number = world, number
        self.connection = Connection()
        self.stopping, self.over = stopping, over = threading.Event(), threading.Event()
        self._interrupts = SimpleNamespace(interrupt=self._interrupt)
        patience = Patience(stopping, over)
        self.begun = Begun(bytearray(size_for(threads)))
        self.identity = Identity(f"process-{world.name_process()}", self.begun)
        self.reach = Reach(world)
        described = Described(self.identity.name, "work", "host", 1, ("work",), GENERATION, 0)
        self.keeper = LeaseKeeper(
            self.reach,  # type: ignore[arg-type]  # it is all that a keeper calls
            self._interrupts,  # type: ignore[arg-type]
            timedelta(seconds=TTL),
            lambda _: described,
            clock=lambda: world.now,
        )
        self.keeper._identity = self.identity
        self.keeper.start = lambda: None  # type: ignore[method-assign]  # the world calls it
        self.idempotency = Idempotency(
            self.reach,
            world.broker,
            patience,
            lambda: self.keeper.store_was_away(),
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
        self.dispatcher = Dispatcher(
            self.keeper.runs, lambda: not self.keeper.store_was_away(), self.keeper.owner, lambda: world.now
        )
        self.dispatcher._runs = _SHORT  # so that it claims ahead
        self.threads = [Thread(self, number) for number in range(threads)]
        self.caretaker = Walker(self, "caretaker")
        self.walkers: Sequence[Walker] = [*self.threads, self.caretaker]
        self.ways: list[Way] = []
        self.ends: list[End] = []
        self.commit = commit
        self.is_led = False
        self._numbers = itertools.count()
        self.frozen_until = 0.0
        self.began_at = self.heard_at = world.now
        self.beats_at = world.now + TTL / 3 + number * 0.2  # not all processes at the same time
        if world.now < self.reach.beats_fail_until:
            self.beat()  # as its first deed, which changes nothing if it is answered
        self.ends_at = math.inf

    @property
    def is_idle(self) -> bool:
        if self.ways or len(self.dispatcher):
            return False
        return all(walker.effect is None for walker in self.walkers)

    @property
    def has_room(self) -> bool:
        """Whether it takes more from the queue."""
        return len(self.ways) + len(self.dispatcher) < 2 * len(self.threads) and not self.stopping.is_set()

    @property
    def must_tidy(self) -> bool:
        """Whether something that it has claimed waits for too long, or is to be asked for again."""
        now, dispatcher = self.world.now, self.dispatcher
        if not dispatcher.has_to_tidy:
            return False
        ready = any(one.at <= now - LONGEST_AHEAD for one in dispatcher._ready)
        return ready or (any(one.at <= now for one in dispatcher._held) and not self.keeper.store_was_away())

    def receive(self, delivery: Waiting) -> None:
        """Take in what has come from the queue."""
        message = delivery.message
        key = JobKey.of(message.queue_name, message.actor_name, message.message_id)
        connection = self.connection
        execution = Execution(message, key, self.keeper.owner(), is_stale=lambda: connection.is_lost)
        execution.redelivered = delivery.redelivered
        self.dispatcher.put(Delivery(Item(next(self._numbers), Arrival(message, connection)), execution))

    def tidy(self) -> Steps[None]:
        """Look after what was claimed ahead, or is held."""
        return tidy(self.dispatcher, self.idempotency.request)

    def give_back(self) -> Steps[None]:
        """Return what waits, as the process stops."""
        for delivery in (yield from drain(self.dispatcher)):
            arrival = delivery.item.arrival
            self.world.broker.settle(arrival.connection, arrival.message, ack=False)

    def beat(self) -> bool:
        """Beat once; return whether that is answered."""
        now, pause = self.world.now, self.keeper.beat()
        self.beats_at = now + self.length_of(pause)
        if now < self.reach.beats_fail_until:
            return False
        self.heard_at = now
        return True

    def length_of(self, pause: float) -> float:
        """How many seconds it is until the try after a pause: those that would fail in an outage need not be made."""
        left = self.reach.beats_fail_until - self.world.now
        if left <= 0 or not self.keeper.store_was_away():
            return pause
        return math.ceil(left / pause) * pause

    def _interrupt(self, thread: int, kind: type[BaseException]) -> bool:
        for way in self.ways:
            if id(way) == thread and way.running is not None:
                way.interrupted = True
                return True
        return False
