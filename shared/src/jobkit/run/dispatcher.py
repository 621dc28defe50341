"""Which delivery runs next, of all that a process has taken from its queues: the one place where that is decided.

Jobs that are known to be short are claimed ahead, several in one call, so that a thread that has ended one job need not
ask for the next. What was claimed and finds no thread in time is released, as if it had never been claimed: it must not
wait here while another process is idle.
"""

import heapq
import itertools
import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from jobkit.effects import Claim, Claims, Record, Records, Released, Steps
from jobkit.errors import JobkitError, StoreUnavailable
from jobkit.execution import Execution
from jobkit.store.base import Answer, Held, JobKey, JobState, Lease

log = logging.getLogger(__name__)

#: Claims that wait for a thread, at most.
MOST_AHEAD: Final = 16

#: With no more than this left, the next are claimed while these run.
FEW: Final = 4

#: Seconds that a claim waits for a thread, before it is released.
LONGEST_AHEAD: Final = 0.1

#: Seconds. What was claimed longer ago is not trusted, should nobody have come to release it.
_STALE: Final = 1.0

#: An actor is short if the median of its last runs in this process is below this, and there were so many.
SHORT: Final = timedelta(milliseconds=50)
RUNS: Final = 100

#: The same for jobs that do not wait for anything: a second thread would only take turns with the first.
INSTANT: Final = timedelta(milliseconds=1)

#: Seconds between two questions for a job whose worker may just have died, and the most of them. Its message comes back
#: before the worker's supervisor has said so.
DEATH_PAUSE: Final = 0.1
DEATH_QUESTIONS: Final = 10


@dataclass(slots=True)
class Delivery:
    """A delivery that waits for a thread.

    Attributes:
        item: What it is handed out as, which says what comes first by its order.
        execution: What is known of it; its answer, if it was claimed.
        singly: Whether it is claimed by the thread that runs it, and not ahead.
        at: When it was claimed, or is asked for again.
        asked: How often it was asked for, while its job was held.
    """

    item: Any  # Dramatiq's own
    execution: Execution
    singly: bool = False
    at: float = 0.0
    asked: int = 0


#: Says how to ask for the job of a delivery, and whether that is ahead of a thread.
Request = Callable[[Execution, bool], Claim]

#: A delivery that was claimed, and its lease, which is to be released.
Withdrawn = tuple[Delivery, Lease]


@dataclass(order=True, slots=True)
class _Place:
    item: Any
    number: int
    delivery: Delivery = field(compare=False)


@dataclass
class Dispatcher:
    """Decides what is claimed, and what runs. It asks nobody: whoever drives it does that, and tells it the answers.

    Args:
        runs_here: Whether this process runs a job.
        may_claim_ahead: Whether that is wise now: not in an outage, nor before owners elsewhere had time to renew.
        new_owner: Makes a name under which a delivery asks for its job.
        clock: Seconds that only rise.
    """

    runs_here: Callable[[JobKey], bool]
    may_claim_ahead: Callable[[], bool]
    new_owner: Callable[[], str]
    clock: Callable[[], float]
    _waiting: list[_Place] = field(default_factory=list)
    _ready: deque[Delivery] = field(default_factory=deque)  # claimed, or to be claimed by its thread
    _held: list[Delivery] = field(default_factory=list)  # by a worker that may just have died
    _runs: dict[str, "_Runs"] = field(default_factory=dict)  # of each actor
    _queues: dict[str, "_Runs"] = field(default_factory=dict)
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _asked_for: int = 0  # deliveries that are being claimed together, just now

    def put(self, delivery: Delivery) -> None:
        """Take a delivery in."""
        with self._lock:
            heapq.heappush(self._waiting, _Place(delivery.item, next(self._numbers), delivery))

    def note_run(self, actor: str, queue: str, seconds: float) -> None:
        """Note how long a job of the actor, from the queue, has run."""
        with self._lock:
            for all_runs, name in ((self._runs, actor), (self._queues, queue)):
                runs = all_runs.get(name)
                if runs is None:
                    runs = all_runs[name] = _Runs()
                runs.add(seconds)

    def is_quick(self, queue: str) -> bool:
        """Whether each of the last jobs from a queue was short: many more would not wait long here."""
        runs = self._queues.get(queue)
        return runs is not None and runs.were_all_short

    @property
    def has_work(self) -> bool:
        """Whether a thread would find something to do."""
        with self._lock:
            is_ready = self._ready and self.clock() - self._ready[0].at <= _STALE
            return bool(is_ready or (self._waiting and not self._is_enough))

    @property
    def is_instant(self) -> bool:
        """Whether what runs next is known to wait for nothing."""
        with self._lock:
            following = self._ready[0] if self._ready else self._waiting[0].delivery if self._waiting else None
            return following is not None and self.knows_as_instant(following)

    def knows_as_instant(self, delivery: Delivery) -> bool:
        """Whether a job is known to wait for nothing."""
        runs = self._runs.get(delivery.execution.job.actor)
        return runs is not None and runs.are_instant

    @property
    def has_to_tidy(self) -> bool:
        """Whether ``overdue`` and ``due`` should be looked at again soon."""
        return bool(self._ready or self._held)

    def __len__(self) -> int:
        return len(self._waiting) + len(self._ready) + len(self._held)

    # ---- for a thread that is free

    def take(self) -> Delivery | None:
        """Return what may run now without a further question; nothing if it is time to claim more."""
        with self._lock:
            if not self._ready or self._runs_low or self.clock() - self._ready[0].at > _STALE:  # it was frozen
                return None
            return self._ready.popleft()

    def choose(self) -> list[Delivery]:
        """Return what is claimed next, in one call: one for the thread that asks, and others ahead.

        One alone, unless it was delivered before, needs no claim here: its thread makes it.
        """
        with self._lock:
            if not self._waiting or self._is_enough:
                return []
            batch = [heapq.heappop(self._waiting).delivery]
            if not self._is_short(batch[0]) or not self.may_claim_ahead():
                return batch
            while self._waiting and len(batch) + len(self._ready) + self._asked_for < MOST_AHEAD:
                if not self._is_short(self._waiting[0].delivery):
                    break
                batch.append(heapq.heappop(self._waiting).delivery)
            self._asked_for += _together(batch)
            return batch

    def needs_claim(self, batch: Sequence[Delivery]) -> bool:
        """Whether a batch is claimed before its first delivery gets its thread.

        What was delivered again may run elsewhere: after an outage its thread lets the owner renew the lease first.
        """
        return len(batch) > 1 or (batch[0].execution.redelivered and self.may_claim_ahead())

    def deal(self, batch: Sequence[Delivery], answers: Sequence[Answer | JobkitError]) -> list[Withdrawn]:
        """Take in what claims were answered; return what is to be released, because it must not wait."""
        withdrawn = []
        with self._lock:
            self._asked_for -= _together(batch)
            for delivery, answer in zip(batch, answers, strict=True):
                delivery.at = self.clock()
                if isinstance(answer, JobkitError):  # of its own record: its thread sees to it
                    delivery.singly = True
                    self._ready.append(delivery)
                elif self._may_be_free_soon(delivery, answer):
                    delivery.asked += 1
                    delivery.at += DEATH_PAUSE
                    self._held.append(delivery)
                elif isinstance(answer, Lease) and answer.crashes and delivery is not batch[0]:
                    delivery.singly = True  # what may take its process along must not wait beside others
                    withdrawn.append((delivery, answer))
                else:
                    delivery.execution.answer = answer
                    self._ready.append(delivery)
        return withdrawn

    def give_up(self, batch: Sequence[Delivery]) -> None:
        """Take in that claims were not answered. The first goes to its thread, which waits for the store."""
        with self._lock:
            self._asked_for -= _together(batch)
            for delivery in batch:
                delivery.execution.unheard = True
            first, *others = batch
            first.singly, first.at = True, self.clock()
            self._ready.appendleft(first)
            for delivery in others:
                self.put(delivery)

    # ---- at times

    def due(self) -> list[Delivery]:
        """Return what is to be asked for again now, in one call; ``deal`` takes the answers. Nothing in an outage."""
        with self._lock:
            if not self._held or not self.may_claim_ahead():
                return []
            now = self.clock()
            due = [delivery for delivery in self._held if delivery.at <= now]
            self._held = [delivery for delivery in self._held if delivery.at > now]
            self._asked_for += _together(due)
            return due

    def overdue(self) -> list[Withdrawn]:
        """Return what was claimed and has found no thread in time, to be released."""
        return self._withdraw(before=self.clock() - LONGEST_AHEAD)

    def put_back(self, withdrawn: Sequence[Withdrawn]) -> None:
        """Let wait again what was released, or was to be.

        It asks under another name from now on. Under the old one it would get the same lease again, if that is still
        there, and a release that is only late would end that while the job runs.
        """
        for delivery, lease in withdrawn:
            delivery.execution.owner, delivery.execution.instead_of = self.new_owner(), lease.owner
            self.put(delivery)

    def drain(self) -> tuple[list[Delivery], list[Withdrawn]]:
        """Return all that waits, as the process stops, and what is to be released."""
        with self._lock:
            withdrawn = self._withdraw(before=math.inf)
            everything = [place.delivery for place in self._waiting] + self._held
            self._waiting, self._held = [], []
            return everything, withdrawn

    def _withdraw(self, before: float) -> list[Withdrawn]:
        withdrawn, staying = [], deque[Delivery]()
        with self._lock:
            for delivery in self._ready:
                if delivery.at > before:
                    staying.append(delivery)
                    continue
                answer, delivery.execution.answer = delivery.execution.answer, None
                if isinstance(answer, Lease):
                    withdrawn.append((delivery, answer))
                else:
                    self.put(delivery)
            self._ready = staying
        return withdrawn

    @property
    def _is_enough(self) -> bool:
        """Whether enough are being claimed: another thread would ask for one alone, or run jobs in turns with them."""
        if not self._asked_for:
            return False
        following = self._waiting[0].delivery
        return self._is_short(following) and (self._asked_for >= MOST_AHEAD or self.knows_as_instant(following))

    @property
    def _runs_low(self) -> bool:
        """Whether to claim more while others run what is left."""
        if len(self._ready) > FEW or len(self._waiting) < FEW or self._asked_for:
            return False
        return self._is_short(self._waiting[0].delivery) and self.may_claim_ahead()

    def _is_short(self, delivery: Delivery) -> bool:
        runs = self._runs.get(delivery.execution.job.actor)
        return runs is not None and runs.are_short and not delivery.singly and not delivery.execution.redelivered

    def _may_be_free_soon(self, delivery: Delivery, answer: Answer) -> bool:
        """Whether its job is held by a worker that may have died just now."""
        return (
            isinstance(answer, Held)
            and answer.state is JobState.RUNNING
            and delivery.execution.redelivered
            and delivery.asked < DEATH_QUESTIONS
            and not self.runs_here(delivery.execution.job)
        )


def claim(dispatcher: Dispatcher, batch: Sequence[Delivery], request: Request) -> Steps[None]:
    """Ask for jobs in one call, and take in the answers.

    Args:
        dispatcher: Has chosen them.
        batch: The first is for a thread that is free.
        request: Says how to ask for the job of a delivery, and whether that is ahead of a thread.
    """
    try:
        # What was delivered before is no claim ahead. The store counts by that: if process and supervisor die together,
        # a job that had a thread counts a crash, and one that waited for a thread does not.
        answers = yield Claims(
            [
                request(delivery.execution, delivery is not batch[0] and not delivery.execution.redelivered)
                for delivery in batch
            ]
        )
    except GeneratorExit:
        raise
    except BaseException as error:  # whatever it is, the deliveries are not lost
        if not isinstance(error, StoreUnavailable):
            log.exception("jobs could not be claimed together, so each is claimed alone")
        dispatcher.give_up(batch)
        return
    yield from release(dispatcher, dispatcher.deal(batch, answers))


def tidy(dispatcher: Dispatcher, request: Request) -> Steps[None]:
    """Release what waits for too long, and ask again for what may be free by now."""
    yield from release(dispatcher, dispatcher.overdue())
    due = dispatcher.due()
    if due:
        yield from claim(dispatcher, due, request)


def release(dispatcher: Dispatcher, withdrawn: Sequence[Withdrawn]) -> Steps[None]:
    """Release what was claimed ahead, uncounted, and let it wait again."""
    if not withdrawn:
        return
    try:
        yield Records([Record(lease, Released()) for _, lease in withdrawn])
    except StoreUnavailable as outage:  # the leases are taken over, or end by time
        log.warning("what was claimed ahead is not released: %s", outage)
    except Exception:  # whatever it is, a worker thread goes on
        log.exception("what was claimed ahead is not released")
    finally:
        dispatcher.put_back(withdrawn)


def drain(dispatcher: Dispatcher) -> Steps[list[Delivery]]:
    """Return all that waits, as the process stops; what was claimed is released first."""
    deliveries, withdrawn = dispatcher.drain()
    while withdrawn:  # a claim may be answered meanwhile
        yield from release(dispatcher, withdrawn)
        more, withdrawn = dispatcher.drain()
        deliveries += more
    return deliveries


def _together(batch: Sequence[Delivery]) -> int:
    """How many are claimed in one call. One alone may be left to its thread, which nobody is told the answer of."""
    return len(batch) if len(batch) > 1 else 0


class _Runs:
    """How long an actor's last runs took."""

    def __init__(self) -> None:
        self._last: deque[tuple[bool, bool]] = deque(maxlen=RUNS)
        self._short = self._instant = 0

    def add(self, seconds: float) -> None:
        if len(self._last) == RUNS:
            was_short, was_instant = self._last[0]
            self._short -= was_short
            self._instant -= was_instant
        is_short, is_instant = seconds < _SHORT, seconds < _INSTANT
        self._last.append((is_short, is_instant))
        self._short += is_short
        self._instant += is_instant

    @property
    def are_short(self) -> bool:
        """Whether the median is: more than half of enough runs."""
        return len(self._last) == RUNS and 2 * self._short > RUNS

    @property
    def were_all_short(self) -> bool:
        """Whether each of enough runs is."""
        return self._short == RUNS

    @property
    def are_instant(self) -> bool:
        """The same of the lower limit."""
        return len(self._last) == RUNS and 2 * self._instant > RUNS


_SHORT: Final = SHORT.total_seconds()
_INSTANT: Final = INSTANT.total_seconds()
