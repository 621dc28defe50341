"""A simulated world around the real path: processes, a broker, a store and a clock, all in one thread.

The path (``jobkit.run.path``) is the one that workers use, and so are the steps that it calls, the lease keeper and the
job store in memory. Simulated are who calls it and when, the broker's queues, what goes wrong, and time. At each point
a chooser decides which thread goes on, what its effect meets, or what fails.
"""

import contextlib
import itertools
import math
import random
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from typing import Any, Final
from unittest.mock import patch

from cases import CASES, Case
from choices import Chooser
from dramatiq import Message
from dramatiq.middleware import Shutdown
from laws import Finding, Laws
from simulated_queue import Broker, Connection
from simulated_workers import RIGHT, TTL, Mistake, Process, Thread, Walker, Way
from story import Asked, name_of, shown

from jobkit import leases
from jobkit.deadletters import round_after
from jobkit.effects import (
    Call,
    Claim,
    Claims,
    Outcome,
    Pause,
    Record,
    Records,
    Run,
    Seam,
)
from jobkit.errors import BrokerUnavailable, LeaseLost, PermanentError, Snooze, StoreUnavailable, TransientError
from jobkit.execution import in_round
from jobkit.rounds import said_round
from jobkit.run.dispatcher import LONGEST_AHEAD
from jobkit.run.seams import Seams
from jobkit.store.base import Lease
from jobkit.store.memory import MemoryStore

__all__ = ["CASES", "Case", "Finding", "World", "explore"]

#: Seconds: how long a job works or pauses, a frozen process is silent, the store is away, and an effect is delayed.
WORK: Final = 2.5 * TTL
PAUSE: Final = 1.0
FROZEN: Final = TTL + 1.3
AWAY: Final = TTL + 1.1
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

#: What may happen next: its weight, what it does, and to what. Any: that is of the kind which it takes.
Move = tuple[float, Callable[[Any], None], Any]


class World:
    """One walk.

    Args:
        case: What is sent.
        chooser: Decides.
        faults: How many things may go wrong at most.
        mistake: Is made in each process.
    """

    def __init__(self, case: Case, chooser: Chooser, *, faults: int = 2, mistake: Mistake = RIGHT) -> None:
        self.case, self._mistake = case, mistake
        self._chooser = chooser
        self.now = 0.0  # seconds that really pass
        self._skew = 1_700_000_000.0
        self.store = MemoryStore(clock=lambda: self.now + self._skew)
        self.away_until = 0.0
        self._is_away = self._broker_is_away = False
        self.broker = Broker(lambda: self.now)
        self.laws = Laws(case, self.store, self.broker)
        self._story: list[tuple[float, str]] = []
        self._seams = Seams(self.store, timedelta(seconds=TTL))
        self._faults_left = faults
        self._late: list[tuple[float, Claim | Claims | Record | Records]] = []
        self._declarations: list[tuple[float, Process, Collection[int]]] = []
        self._names = itertools.count(1)
        self.processes = [self._start(number) for number in range(case.processes)]
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

    def _start(self, number: int) -> Process:
        process = Process(self, number, self.case.threads)
        self._mistake.spoil(process)
        return process

    def tell(self, line: str) -> None:
        self._story.append((self.now, line))

    @property
    def story(self) -> list[str]:
        """What has happened so far."""
        return [f"{at:7.1f} s  {line}" for at, line in self._story]

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
        if self._is_away and self.now >= self.away_until:
            self._store_returns()
        if not self._is_away:
            if self._declarations:
                self._declare_dead()
            if self._late:
                self._happen_late()
        for process in self.processes:
            if process.ends_at <= self.now and process.frozen_until <= self.now:
                with patch.object(leases, "INTERRUPT_TIME", 0.0):
                    process.keeper.abandon()
                self._die(process, "hands back what still runs and ends")
        moves = self._moves()
        comes = None if moves else self._next_moment()
        if comes is not None:
            moves.append((_WAIT, self._pass_time, comes - self.now))
        if self._faults_left:
            self._add_faults(moves)
        if not moves:
            return False
        _, happen, what = moves[self._chooser.choose([move[0] for move in moves])]
        happen(what)
        return True

    def _moves(self) -> list[Move]:
        """What may happen next."""
        moves: list[Move] = []
        comes = not self._broker_is_away and self.broker.ready() is not None
        for process in self.processes:
            if self.now >= process.frozen_until:
                self._add_moves_of(process, moves, comes=comes)
        if self._sends_again and self.broker.dead:
            moves.append((1, self._send_again, None))
        return moves

    def _add_moves_of(self, process: Process, moves: list[Move], *, comes: bool) -> None:
        if process.beats_at <= self.now:
            moves.append((10, self._beat, process))
        dispatcher, stops = process.dispatcher, process.stopping.is_set()
        if comes and process.has_room:
            moves.append((10, self._deliver, process))
        takes = not stops and dispatcher.has_work
        for thread in process.threads:
            if thread.effect is not None:
                if thread.is_awake:
                    moves.append((10, self._go_on, thread))
            elif takes:
                takes = False  # the threads of a process are alike
                moves.append((10, self._take, thread))
        self._add_moves_of_caretaker(process, moves, stops=stops)
        if stops and process.is_idle:
            moves.append((10, self._replace, process))

    def _add_moves_of_caretaker(self, process: Process, moves: list[Move], *, stops: bool) -> None:
        caretaker = process.caretaker
        if caretaker.effect is not None:
            if caretaker.is_awake:
                moves.append((10, self._go_on, caretaker))
        elif stops and len(process.dispatcher):
            moves.append((10, caretaker.begin_with, process.give_back))
        elif process.must_tidy:
            moves.append((10, caretaker.begin_with, process.tidy))

    def _add_faults(self, moves: list[Move]) -> None:
        """What may go wrong now, as long as anything is under way."""
        busy = [process for process in self.processes if not process.is_idle]
        for process in busy:
            moves.append((0.5, self._die_of_a_fault, process))
            if not process.stopping.is_set():
                moves.append((0.3, self._stop, process))
            if process.connection.taken:
                moves.append((0.5, self._disconnect, process))
            if self.now >= process.frozen_until:
                moves.append((0.5, self._freeze, process))
            if self.now >= process.reach.cut_off_until:
                moves.append((0.2, self._cut_off, process))
            if self.now >= process.reach.silent_until:
                moves.append((0.2, self._silence, process))
        if busy:
            moves.append((0.2, self._move_clock, None))
            if not self._is_away:
                moves.append((0.5, self._lose_store, None))

    def _next_moment(self) -> float | None:
        """When something can happen; None if nothing ever will."""
        moments = [one.due for one in self.broker.waiting]
        moments += [due for due, _, _ in self._declarations if due < math.inf]
        moments += [due for due, _ in self._late]
        moments.append(self.away_until)
        for process in self.processes:
            moments.append(process.frozen_until)
            if process.stopping.is_set():
                moments.append(process.ends_at)
            moments += [walker.wakes_at for walker in process.walkers if walker.effect is not None]
            if process.dispatcher._held:
                moments += [one.at for one in process.dispatcher._held]
                moments += [process.beats_at, process.keeper._away_until]  # they wait for that, too
            moments += [one.at + LONGEST_AHEAD + 0.01 for one in process.dispatcher._ready]
        return min((moment for moment in moments if moment > self.now), default=None)

    def _pass_time(self, seconds: float) -> None:
        until = self.now + seconds
        while True:
            # Whoever wakes up from being frozen does not always beat first.
            beating = [process for process in self.processes if process.frozen_until < process.beats_at <= until]
            if not beating:
                break
            first = min(beating, key=lambda process: process.beats_at)
            self.now = max(self.now, first.beats_at)
            self._beat(first)
        self.now = max(self.now, until)

    def _beat(self, process: Process) -> None:
        if process.beat():
            self.laws.note_leases(process, self.now)

    def _send_again(self, _: None) -> None:
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

    def _take(self, thread: Thread) -> None:
        thread.take(self._mistake.bend)

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

    def _meets(self, walker: Walker, effect: Asked) -> int:
        """0: it is done; 1: it fails; 2: its answer is lost; 3: it takes its time; 4: it fails, and happens later."""
        at_broker = _is_at_broker(effect)
        if self._broker_is_away if at_broker else self.now < walker.process.reach.calls_fail_until:
            return 1
        if not self._faults_left or walker.is_delayed:
            return 0
        # What nobody waits for is the likeliest to come late.
        what = self._chooser.choose([20, 0.5, 0.5, 0.5, 0.3 if isinstance(walker, Thread) else 4])
        if what:
            self._count_fault()
        return what

    def _perform(self, walker: Walker, effect: Asked) -> None:
        name, what = name_of(effect), self._meets(walker, effect)
        if what == 3:
            walker.is_delayed = True
            walker.sleep(DELAY)
            self.tell(f"{walker.name}: {name} … takes its time")
            return
        answer: object = None
        error: BaseException | None = None
        if what:
            error = BrokerUnavailable("no answer") if _is_at_broker(effect) else StoreUnavailable("no answer")
        if what == 4 and not isinstance(effect, Call):
            self._late.append((self.now + DELAY, effect))
            self.tell(f"{walker.name}: {name} … fails, and happens later")
        elif what in {1, 4}:
            self.tell(f"{walker.name}: {name} … fails")
        else:
            claims = effect.claims if isinstance(effect, Claims) else [effect] if isinstance(effect, Claim) else []
            owners = {one.job: self.laws.owner_of(one.job, self.processes, self.now) for one in claims}
            were_dead = {one.job for one in claims if self.laws.is_dead(one.job)}
            try:
                answer = effect.do() if isinstance(effect, Call) else self._seams(effect)
            except Exception as failure:
                answer, error = None, failure
            lost = " … happens, and the answer is lost" if what == 2 else f" → {shown(answer, error)}"
            self.tell(f"{walker.name}: {name}{lost}")
            for one in answer if isinstance(answer, list) else [answer]:
                if isinstance(one, Lease):
                    self.laws.check_lease(one, walker, owners.get(one.job), self.now)
                    if one.job in were_dead:
                        self.laws.check_restart(one.job)
        walker.go_on(None if error else answer, error)

    def _happen_late(self) -> None:
        for late in list(self._late):
            due, effect = late
            if due <= self.now:
                self._late.remove(late)
                self.tell(f"{name_of(effect)}, which nobody waits for any more")
                answer = self._seams(effect)
                for one in answer if isinstance(answer, list) else [answer]:
                    if isinstance(one, Lease):  # which nobody has
                        self.laws.deaths[one.job.id] += 1
                        self.laws.note_last_owner(one, self.now)
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

    def _count_fault(self, *, ends_leases: bool = True) -> None:
        """Note a fault, and whether a lease may end by time because of it."""
        self._faults_left -= 1
        self.laws.faults += 1
        self.laws.lapses += ends_leases

    def _die_of_a_fault(self, process: Process) -> None:
        self._count_fault(ends_leases=False)
        self._die(process, "dies")

    def _stop(self, process: Process) -> None:
        self._count_fault()
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
        with contextlib.suppress(StoreUnavailable):
            process.reach.declare_dead(process.identity.name, "work", process.begun.numbers())
        self.broker.lose(process.connection)
        self.processes[process.number] = self._start(process.number)

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
        self.processes[process.number] = self._start(process.number)
        self._bury(process, begun, under_way)

    def _bury(
        self, process: Process, begun: Collection[int], under_way: Sequence[Claim | Claims | Record | Records]
    ) -> None:
        """Its supervisor says that it is dead: at once, once the store is back, or never, being dead itself."""
        wait = _DECLARED[self._chooser.choose([10, 2, 1]) if self._faults_left else 0]
        if wait:
            self._count_fault()
        self._declarations.append((self.now + wait, process, begun))
        if self._is_away:
            return
        self._declare_dead()
        for effect in under_way:  # it was sent before the end, and arrives after it
            self.tell(f"{name_of(effect)}, says process {process.number} from beyond")
            self._seams(effect)

    def _declare_dead(self) -> None:
        for declaration in list(self._declarations):
            due, process, begun = declaration
            if due <= self.now:
                self._declarations.remove(declaration)
                self.tell(f"process {process.number} is declared dead")
                self.store.declare_dead(process.identity.name, "work", begun)

    def _disconnect(self, process: Process) -> None:
        self._count_fault()
        self.tell(f"process {process.number} loses its connection, its deliveries come back")
        self.broker.lose(process.connection)
        process.connection = Connection()

    def _freeze(self, process: Process) -> None:
        self._count_fault()
        self.tell(f"process {process.number} is frozen for longer than a lease")
        process.frozen_until = self.now + FROZEN
        for way in process.ways:  # what it believes is worth nothing while it is frozen
            self.laws.note_death(way.execution, had_begun=False)
        self._note_claims_ahead(process)

    def _note_claims_ahead(self, process: Process) -> None:
        for delivery in process.dispatcher._ready:
            self.laws.note_death(delivery.execution, had_begun=False)

    def _move_clock(self, _: None) -> None:
        self._count_fault()
        back = self._chooser.choose([1, 1])
        self.tell(f"the clock of the store goes {'back' if back else 'forward'} by a minute")
        self._skew += -60 if back else 60
        self.laws.leases_cut_short = self.laws.leases_cut_short or not back
        for process in self.processes:
            if self.now >= process.frozen_until:
                self._beat(process)

    def _lose_store(self, _: None) -> None:
        self._count_fault()
        self.away_until, self._is_away = self.now + AWAY, True
        self._broker_is_away = self._chooser.choose([2, 1]) == 1
        self.tell(f"the store{' and the broker are' if self._broker_is_away else ' is'} away for longer than a lease")
        if self._broker_is_away:
            for process in self.processes:
                self.broker.lose(process.connection)
                process.connection = Connection()

    def _store_returns(self) -> None:
        self.tell(f"the store{' and the broker are' if self._broker_is_away else ' is'} back")
        self._is_away = self._broker_is_away = False
        self.laws.back_at = self.now
        for process in self.processes:
            if self.now >= max(process.frozen_until, process.reach.beats_fail_until):
                self.laws.note_leases(process, self.now)

    def _cut_off(self, process: Process) -> None:
        self._count_fault()
        self.tell(f"process {process.number} does not reach the store for longer than a lease")
        process.reach.cut_off_until = self.now + AWAY
        self.laws.note_silence(process, self.now)

    def _silence(self, process: Process) -> None:
        self._count_fault()
        self.tell(f"the beats of process {process.number} do not reach the store for longer than a lease")
        process.reach.silent_until = self.now + AWAY
        self.laws.note_silence(process, self.now)


def _is_at_broker(effect: Asked) -> bool:
    return isinstance(effect, Call) and effect.seam is Seam.BROKER


def explore(case: Case, chooser: Chooser, *, faults: int = 2, mistake: Mistake = RIGHT) -> World:
    """Take one walk to its end; raises ``Finding``, whose notes tell the story."""
    random.seed(0)  # the pauses of the path
    world = World(case, chooser, faults=faults, mistake=mistake)
    try:
        world.walk()
    except Finding as finding:
        finding.add_note("\n".join(world.story))
        raise
    except Exception as error:
        error.add_note("\n".join(world.story))
        raise
    return world
