"""A simulated world around the real path: processes, a broker, a store and a clock, all in one thread.

The path (``jobkit.run.path``) is the one that workers use, and so are the steps that it calls, the lease keeper and the
job store in memory. Simulated are who calls it and when, the broker's queues, what goes wrong, and time. At each point
a chooser decides which thread goes on, what its effect meets, or what fails.
"""

import contextlib
import itertools
import math
import random
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import timedelta
from typing import Any, Final
from unittest.mock import patch

from cases import CASES, Case
from choices import Chooser
from dramatiq import Message
from dramatiq.middleware import Shutdown
from laws import Finding, Laws
from simulated_queue import Broker, Connection
from simulated_workers import RENEWAL, TTL, Bend, Process, Thread, Walker, Way

from jobkit import leases
from jobkit.deadletters import round_after
from jobkit.effects import (
    Buried,
    Call,
    Claim,
    Claims,
    Completed,
    Outcome,
    Pause,
    Record,
    Records,
    Run,
    Seam,
    Steps,
)
from jobkit.errors import BrokerUnavailable, LeaseLost, PermanentError, Snooze, StoreUnavailable, TransientError
from jobkit.execution import Decision, in_round
from jobkit.rounds import said_round
from jobkit.run.dispatcher import LONGEST_AHEAD, tidy
from jobkit.run.seams import Seams
from jobkit.store.base import Lease
from jobkit.store.memory import MemoryStore

__all__ = ["CASES", "Case", "Finding", "World", "explore", "straight"]

#: Seconds: how long a job works or pauses, a frozen process is silent, and an effect is delayed.
WORK: Final = 2.5 * TTL
PAUSE: Final = 1.0
FROZEN: Final = TTL + 1
DELAY: Final = 4.0

#: Seconds from the interrupt of what runs to the end of the process.
END_TIME: Final = 4.5

#: Seconds from the death of a process to its declaration: usually, in an outage of the store, with its supervisor.
_DECLARED: Final = (0.0, 2.0, math.inf)

#: How likely time passes, where nothing else goes on, beside all that may go wrong just then.
_WAIT: Final = 20.0

#: A walk that takes more steps than this goes round in circles.
MOST_STEPS: Final = 3_000

#: How a run ends that fails, by the word of its script.
_FAILURES: Final[dict[str, Callable[[], BaseException]]] = {
    "fail": lambda: TransientError("busy"),
    "never": lambda: PermanentError("never"),
    "snooze": lambda: Snooze(2, "later"),
}

#: What is asked of a seam.
Asked = Claim | Claims | Record | Records | Call

Move = tuple[float, Callable[[], None]]


def straight(_way: Way, steps: Steps[Decision]) -> Steps[Decision]:
    """The path as it is."""
    return steps


class World:
    """One walk.

    Args:
        case: What is sent.
        chooser: Decides.
        faults: How many things may go wrong at most.
        bend: Makes a mistake in the path.
    """

    def __init__(self, case: Case, chooser: Chooser, *, faults: int = 2, bend: Bend = straight) -> None:
        self.case, self.bend = case, bend
        self._chooser = chooser
        self.now = 0.0  # seconds that really pass
        self._skew = 1_700_000_000.0
        self.store = MemoryStore(clock=lambda: self.now + self._skew)
        self.broker = Broker(lambda: self.now)
        self.laws = Laws(case, self.store, self.broker)
        self.story: list[str] = []
        self._seams = Seams(self.store, timedelta(seconds=TTL))
        self._faults_left = faults
        self._late: list[tuple[float, Claim | Claims | Record | Records]] = []
        self._declarations: list[tuple[float, Process, Collection[int]]] = []
        self._names = itertools.count(1)
        self.processes = [Process(self, number, case.threads) for number in range(case.processes)]
        self._next_renewal = self.now + RENEWAL
        self._sends_again = case.sends_again
        for name in case.sends:
            self.send(name)

    def send(self, name: str) -> None:
        message: Message[Any] = Message("work", "work", (), {}, {}, name, 1_700_000_000_000)
        self.broker.enqueue(message)
        self.laws.accepted.append(name)
        self.tell(f"{name} is sent")

    def name_process(self) -> int:
        """Return a number for a process that starts."""
        return next(self._names)

    def tell(self, line: str) -> None:
        self.story.append(f"{self.now:7.1f} s  {line}")

    # ---- the walk

    def walk(self) -> None:
        """Take steps until nothing is left to do; raises ``Finding``."""
        for _ in range(MOST_STEPS):
            if not self._step():
                self.laws.check_jobs()
                for process in self.processes:
                    self.laws.check_process(process)
                return
        raise Finding("it goes on for ever")

    def _step(self) -> bool:
        self._declare_dead()
        self._happen_late()
        for process in self.processes:
            if process.ends_at <= self.now and process.frozen_until <= self.now:
                with patch.object(leases, "INTERRUPT_TIME", 0.0):
                    process.keeper.abandon()
                self._die(process, "hands back what still runs and ends")
        moves = list(self._moves())
        comes = self._next_moment()
        if not moves and comes is not None:
            moves.append((_WAIT, lambda: self._pass_time(comes - self.now)))
        if self._faults_left and not all(process.is_idle for process in self.processes):
            moves += self._faults()
        if not moves:
            return False
        weights = [weight for weight, _ in moves]
        moves[self._chooser.choose(weights)][1]()
        return True

    def _moves(self) -> Iterator[Move]:
        """What may happen next, with its weight."""
        for process in self.processes:
            if self.now >= process.frozen_until:
                yield from self._moves_of(process)
        if self._sends_again and self.broker.dead:
            yield 1, self._send_again

    def _faults(self) -> Iterator[Move]:
        """What may go wrong now."""
        for process in self.processes:
            if not process.is_idle:
                yield from self._faults_of(process)
        yield 0.2, lambda: self._fault(self._move_clock)

    def _moves_of(self, process: Process) -> Iterator[Move]:
        if process.has_room and self.broker.ready() is not None:
            yield 10, lambda: self._deliver(process)
        takes = process.dispatcher.has_work and not process.stopping.is_set()
        for walker in process.walkers:
            if walker.effect is not None:
                if walker.is_awake:
                    yield 10, lambda walker=walker: self._go_on(walker)  # type: ignore[misc]
            elif takes and isinstance(walker, Thread):
                takes = False  # the threads of a process are alike
                yield 10, lambda thread=walker: thread.take(self.bend)  # type: ignore[misc]
        if process.caretaker.effect is None:
            if process.stopping.is_set() and len(process.dispatcher):
                yield 10, lambda: process.caretaker.begin(process.give_back())
            elif process.must_tidy:
                request = process.idempotency.request
                yield 10, lambda: process.caretaker.begin(tidy(process.dispatcher, request))
        if process.stopping.is_set() and process.is_idle:
            yield 10, lambda: self._replace(process)

    def _faults_of(self, process: Process) -> Iterator[Move]:
        yield 0.5, lambda: self._fault(lambda: self._die(process, "dies"), ends_leases=False)
        if not process.stopping.is_set():
            yield 0.3, lambda: self._fault(lambda: self._stop(process))
        if process.connection.taken:
            yield 0.5, lambda: self._fault(lambda: self._disconnect(process))
        if self.now >= process.frozen_until:
            yield 0.5, lambda: self._fault(lambda: self._freeze(process))

    def _next_moment(self) -> float | None:
        """When something can happen; None if nothing ever will."""
        moments = [one.due for one in self.broker.waiting]
        moments += [due for due, _, _ in self._declarations if due < math.inf]
        moments += [process.frozen_until for process in self.processes]
        moments += [process.ends_at for process in self.processes if process.stopping.is_set()]
        moments += [walker.wakes_at for p in self.processes for walker in p.walkers if walker.effect is not None]
        moments += [one.at for p in self.processes for one in p.dispatcher._held]
        moments += [one.at + LONGEST_AHEAD + 0.01 for p in self.processes for one in p.dispatcher._ready]
        moments += [due for due, _ in self._late]
        later = [moment for moment in moments if moment > self.now]
        return min(later) if later else None

    def _pass_time(self, seconds: float) -> None:
        until = self.now + seconds
        while self._next_renewal <= until:
            self.now = max(self.now, self._next_renewal)
            self._renew()
        self.now = max(self.now, until)

    def _renew(self) -> None:
        self._next_renewal = self.now + RENEWAL
        for process in self.processes:
            process.renew()
            if self.now >= process.frozen_until:
                for way in process.ways:
                    if way.execution.lease is not None and way.running is not None and not way.interrupted:
                        self.laws.note_lease(way.execution.lease, self.now)

    def _send_again(self) -> None:
        """Publish the oldest dead letter in its next round, and take it off, unless that fails."""
        self._sends_again -= 1
        message, failure = self.broker.dead[0]
        again = in_round(message, round_after(said_round(message.options), failure.headers()))
        self.laws.sent_again.add((message.message_id, said_round(again.options)))
        self.broker.enqueue(again)
        if self._faults_left and self._chooser.choose([3, 1]):
            self._count_fault()
            self.tell(f"the dead letter of {message.message_id} is sent again, and stays")
            self._sends_again += 1
            return
        del self.broker.dead[0]
        self.tell(f"the dead letter of {message.message_id} is sent again")

    # ---- what threads do

    def _deliver(self, process: Process) -> None:
        delivery = self.broker.take(process.connection)
        again = ", which comes again" if delivery.redelivered else ""
        self.tell(f"process {process.number} receives {delivery.message.message_id}{again}")
        process.receive(delivery)

    def _go_on(self, walker: Walker) -> None:
        effect = walker.effect
        match effect:
            case Run():
                assert isinstance(walker, Thread)
                self._run(walker)
            case Pause(unless=event):
                walker.go_on(event.is_set(), None)
            case Claim() | Claims() | Record() | Records() | Call():
                self._perform(walker, effect)

    def _perform(self, walker: Walker, effect: Asked) -> None:
        name = _name(effect)
        what = 0
        if self._faults_left and not walker.is_delayed:
            # What nobody waits for is the likeliest to come late.
            what = self._chooser.choose([20, 0.5, 0.5, 0.5, 0.3 if isinstance(walker, Thread) else 4])
        if what == 3:
            self._count_fault()
            walker.is_delayed = True
            walker.sleep(DELAY)
            self.tell(f"{walker.name}: {name} … takes its time")
            return
        answer: object = None
        error: BaseException | None = None
        if what:
            self._count_fault()
            at_broker = isinstance(effect, Call) and effect.seam is Seam.BROKER
            error = BrokerUnavailable("no answer") if at_broker else StoreUnavailable("no answer")
        if what == 4 and not isinstance(effect, Call):
            self._late.append((self.now + DELAY, effect))
            self.tell(f"{walker.name}: {name} … fails, and happens later")
        elif what in {1, 4}:
            self.tell(f"{walker.name}: {name} … fails")
        else:
            claims = effect.claims if isinstance(effect, Claims) else [effect] if isinstance(effect, Claim) else []
            were_dead = {one.job for one in claims if self.laws.is_dead(one.job)}
            try:
                answer = effect.do() if isinstance(effect, Call) else self._seams(effect)
            except Exception as failure:
                answer, error = None, failure
            lost = " … happens, and the answer is lost" if what == 2 else f" → {_shown(answer, error)}"
            self.tell(f"{walker.name}: {name}{lost}")
            for one in answer if isinstance(answer, list) else [answer]:
                if isinstance(one, Lease):
                    self.laws.note_lease(one, self.now)
                    if one.job in were_dead:
                        self.laws.check_restart(one.job)
        walker.go_on(None if error else answer, error)

    def _happen_late(self) -> None:
        for late in list(self._late):
            due, effect = late
            if due <= self.now:
                self._late.remove(late)
                self.tell(f"{_name(effect)}, which nobody waits for any more")
                answer = self._seams(effect)
                for one in answer if isinstance(answer, list) else [answer]:
                    if isinstance(one, Lease):  # which nobody has
                        self.laws.deaths[one.job.id] += 1
                for record in effect.records if isinstance(effect, Records) else []:
                    self.laws.check_late_end(record.lease, self.processes)

    def _run(self, thread: Thread) -> None:
        way = thread.way
        assert way is not None
        name = way.execution.job.id
        if way.running is None:
            self.laws.check_start(way, self.processes, self.now)
            way.running = self.case.script(name, self.laws.runs[name])
            self.laws.runs[name] += 1
            self.tell(f"{thread.name}: {name} runs, attempt {way.execution.attempt}")
            return
        if way.interrupted:
            way.interrupted = False
            self._end_run(thread, way, Shutdown() if thread.process.stopping.is_set() else LeaseLost("gone"))
            return
        match way.running.pop(0).split():
            case ["send", child]:
                self._send_child(child)
            case ["work"]:
                thread.sleep(WORK)
            case ["pause"]:
                thread.sleep(PAUSE)
            case ["ok"]:
                self.laws.effects[name] += 1
                self._end_run(thread, way, None)
            case ["kill"]:
                self._die(thread.process, f"is killed by {name}")
            case [word]:
                self._end_run(thread, way, _FAILURES[word]())

    def _send_child(self, name: str) -> None:
        if name not in self.laws.accepted:
            self.send(name)
        else:
            self.broker.enqueue(Message("work", "work", (), {}, {}, name, 1_700_000_000_000))
            self.tell(f"{name} is sent once more")

    def _end_run(self, thread: Thread, way: Way, error: BaseException | None) -> None:
        way.running = None
        self.tell(f"{thread.name}: the run ends {f'with {type(error).__name__}' if error else 'well'}")
        thread.go_on(Outcome(error), None)

    # ---- what goes wrong

    def _fault(self, happen: Callable[[], None], *, ends_leases: bool = True) -> None:
        self._count_fault(ends_leases=ends_leases)
        happen()

    def _count_fault(self, *, ends_leases: bool = True) -> None:
        """Note a fault, and whether a lease may end by time because of it."""
        self._faults_left -= 1
        self.laws.faults += 1
        self.laws.lapses += ends_leases

    def _stop(self, process: Process) -> None:
        self.tell(f"process {process.number} is told to stop, and the time of its jobs is over")
        process.stopping.set()
        process.over.set()
        for way in process.ways:
            if way.running is not None:
                way.interrupted = True
        process.ends_at = self.now + END_TIME

    def _replace(self, process: Process) -> None:
        self.tell(f"process {process.number} ends, another takes its place")
        self.laws.check_process(process)
        self.store.declare_dead(process.identity.name, "work", process.begun.numbers())
        self.broker.lose(process.connection)
        self.processes[process.number] = Process(self, process.number, self.case.threads)

    def _die(self, process: Process, how: str) -> None:
        self.tell(f"process {process.number} {how}, another takes its place")
        begun = process.begun.numbers()
        for way in process.ways:
            self.laws.note_death(way.execution, had_begun=way.has_run)
        self._note_claims_ahead(process)
        process.keeper._kept.clear()
        delayed = [walker.effect for walker in process.walkers if walker.is_delayed]
        under_way = [one for one in delayed if isinstance(one, Claim | Claims | Record | Records)]
        for steps in [*(walker.steps for walker in process.walkers), *(way.steps for way in process.ways)]:
            if steps is not None:
                with contextlib.suppress(BaseException):
                    steps.close()
        self.broker.lose(process.connection)
        self.processes[process.number] = Process(self, process.number, self.case.threads)
        self._bury(process, begun, under_way)

    def _bury(
        self, process: Process, begun: Collection[int], under_way: Sequence[Claim | Claims | Record | Records]
    ) -> None:
        """Its supervisor says that it is dead: at once, once the store is back, or never, being dead itself."""
        wait = _DECLARED[self._chooser.choose([10, 2, 1]) if self._faults_left else 0]
        if wait:
            self._count_fault()
        self._declarations.append((self.now + wait, process, begun))
        self._declare_dead()
        for effect in under_way:  # it was sent before the end, and arrives after it
            self.tell(f"{_name(effect)}, says process {process.number} from beyond")
            self._seams(effect)

    def _declare_dead(self) -> None:
        for declaration in list(self._declarations):
            due, process, begun = declaration
            if due <= self.now:
                self._declarations.remove(declaration)
                self.tell(f"process {process.number} is declared dead")
                self.store.declare_dead(process.identity.name, "work", begun)

    def _disconnect(self, process: Process) -> None:
        self.tell(f"process {process.number} loses its connection, its deliveries come back")
        self.broker.lose(process.connection)
        process.connection = Connection()

    def _freeze(self, process: Process) -> None:
        self.tell(f"process {process.number} is frozen for longer than a lease")
        process.frozen_until = self.now + FROZEN
        for way in process.ways:  # what it believes is worth nothing while it is frozen
            self.laws.note_death(way.execution, had_begun=False)
        self._note_claims_ahead(process)

    def _note_claims_ahead(self, process: Process) -> None:
        for delivery in process.dispatcher._ready:
            self.laws.note_death(delivery.execution, had_begun=False)

    def _move_clock(self) -> None:
        back = self._chooser.choose([1, 1])
        self.tell(f"the clock of the store goes {'back' if back else 'forward'} by a minute")
        self._skew += -60 if back else 60
        self.laws.leases_cut_short = self.laws.leases_cut_short or not back
        for process in self.processes:
            process.renew()


def _name(effect: Asked) -> str:
    match effect:
        case Claims(claims):
            return ", ".join(map(_name, claims))
        case Records(records):
            return ", ".join(map(_name, records))
        case Claim(job):
            return f"claims {job.id}"
        case Record(lease, end):
            kinds = {Completed: "done", Buried: "dead"}
            return f"records that {lease.job.id} is {kinds.get(type(end), 'free again')}"
        case Call(_, what):
            return what


def _shown(answer: object, error: BaseException | None) -> str:
    if error is not None:
        return f"{type(error).__name__}: {error}"
    if isinstance(answer, Lease):
        return f"a lease, attempt {answer.attempt}, {answer.crashes} crashes"
    if isinstance(answer, list):
        return ", ".join(_shown(one, None) for one in answer)
    if isinstance(answer, bool):
        return "yes" if answer else "no, the lease is another's"
    return "done" if answer is None else type(answer).__name__.lower() + f" ({getattr(answer, 'state', '')})"


def explore(case: Case, chooser: Chooser, *, faults: int = 2, bend: Bend = straight) -> World:
    """Take one walk to its end; raises ``Finding``, whose notes tell the story."""
    random.seed(0)  # the pauses of the path
    world = World(case, chooser, faults=faults, bend=bend)
    try:
        world.walk()
    except Finding as finding:
        finding.add_note("\n".join(world.story))
        raise
    except Exception as error:
        error.add_note("\n".join(world.story))
        raise
    return world
