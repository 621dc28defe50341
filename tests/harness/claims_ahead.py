"""A dispatcher whose time, names and surroundings a test holds, and the store that it claims from."""

import itertools
from collections.abc import Sequence
from datetime import timedelta

from dramatiq import Message

from jobkit.effects import Claim, Effect, Released, take
from jobkit.errors import JobkitError
from jobkit.execution import Execution
from jobkit.run.dispatcher import RUNS, Delivery, Dispatcher, claim, release, tidy
from jobkit.run.seams import Seams
from jobkit.store.base import Answer, JobKey, Lease, Record
from jobkit.store.memory import MemoryStore

TTL = timedelta(seconds=15)


class Desk:
    """One process: it takes deliveries in, and claims them from a store in memory.

    Attributes:
        now: The clock of the process and of its store. It stands still until it is moved.
        away: What the store raises, as long as that is set.
        unwise: Whether nothing may be claimed ahead.
        runs: The jobs that this process runs.
        calls: What the store was asked, one entry for each call.
    """

    def __init__(self, *, warm: bool = True) -> None:
        self.now = 1_000_000.0
        self.away: BaseException | None = None
        self.unwise = False
        self.runs: set[JobKey] = set()
        self.calls: list[Effect] = []
        self._numbers = itertools.count(1)
        self.store = MemoryStore(clock=lambda: self.now)
        self.seams = _Watched(self)
        self.dispatcher = Dispatcher(
            self.runs.__contains__, lambda: not self.unwise, self.new_owner, clock=lambda: self.now
        )
        if warm:
            self.warm_up()

    def new_owner(self) -> str:
        """Return a name that no delivery has had."""
        return f"here:{next(self._numbers)}"

    def warm_up(self, actor: str = "short") -> None:
        """Let the actor be known to be short."""
        for _ in range(RUNS):
            self.dispatcher.note_run(actor, "work", 0.001)

    def delivery(
        self, name: str, *, item: object = 0, actor: str = "short", redelivered: bool = False, singly: bool = False
    ) -> Delivery:
        """Return a delivery of the job."""
        message: Message[object] = Message("work", actor, (), {}, {}, message_id=name, message_timestamp=1)
        key = JobKey.of("work", actor, name)
        return Delivery(item, Execution(message, key, self.new_owner(), redelivered=redelivered), singly=singly)

    def put(
        self, *names: str, item: object = 0, actor: str = "short", redelivered: bool = False, singly: bool = False
    ) -> list[Delivery]:
        """Take deliveries of these jobs in."""
        made = [self.delivery(n, item=item, actor=actor, redelivered=redelivered, singly=singly) for n in names]
        for one in made:
            self.dispatcher.put(one)
        return made

    def request(self, execution: Execution, ahead: bool) -> Claim:
        """How to ask for the job of a delivery."""
        return Claim(execution.job, execution.owner, sent_at=1, instead_of=execution.instead_of, ahead=ahead)

    def claim(self) -> list[Delivery]:
        """Choose what comes next, and claim it if that is due now; return the batch."""
        batch = self.dispatcher.choose()
        if batch and self.dispatcher.needs_claim(batch):
            take(claim(self.dispatcher, batch, self.request), self.seams)
        return batch

    def deal(self, *answers: Answer | JobkitError) -> list[Delivery]:
        """Choose what comes next, and give these answers to it; return the batch."""
        batch = self.dispatcher.choose()
        assert self.dispatcher.needs_claim(batch)
        take(release(self.dispatcher, self.dispatcher.deal(batch, answers)), self.seams)
        return batch

    def tidy(self) -> None:
        """Look after what waits for too long."""
        take(tidy(self.dispatcher, self.request), self.seams)

    def lease(self, name: str, owner: str = "elsewhere:1", actor: str = "short") -> Lease:
        """Let somebody else have the job."""
        lease = self.store.acquire(JobKey.of("work", actor, name), owner, ttl=TTL, sent_at=1)
        assert isinstance(lease, Lease)
        return lease

    def release(self, lease: Lease) -> None:
        """Let somebody else free it."""
        (held,) = self.store.end_all([Record(lease, Released())])
        assert held is True

    def takes(self) -> list[str]:
        """Return the names of all that may run without a further question."""
        taken = []
        while (one := self.dispatcher.take()) is not None:
            taken.append(one.execution.job.id)
        return taken


class _Watched(Seams):
    """Carries effects out, unless the store is away, and notes each."""

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk.store, TTL)
        self._desk = desk

    def __call__(self, effect: Effect) -> object:
        self._desk.calls.append(effect)
        if (away := self._desk.away) is not None:
            raise away.with_traceback(None)
        return super().__call__(effect)


def names(deliveries: Sequence[Delivery]) -> list[str]:
    """The jobs that these are of."""
    return [one.execution.job.id for one in deliveries]
