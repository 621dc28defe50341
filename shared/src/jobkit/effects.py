"""What a step on a job's path asks of the world, as a value.

A step is a generator: it yields an effect, and is sent the answer, or gets the exception thrown in. So a path reads
from top to bottom, runs in a worker's thread with the real broker and store, and can be explored, effect by effect,
with simulated ones.
"""

import threading
from collections.abc import Callable, Generator, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, TypeVar

from jobkit.store.base import Buried, Claim, Completed, Record, Released

__all__ = [
    "Buried",
    "Call",
    "Claim",
    "Completed",
    "Effect",
    "Outcome",
    "Pause",
    "Performs",
    "Record",
    "Records",
    "Released",
    "Run",
    "Seam",
    "Steps",
    "Walk",
    "take",
]

T = TypeVar("T")


class Seam(StrEnum):
    """Where the path touches the world. The third is the clock: ``Pause``."""

    STORE = "store"
    BROKER = "broker"


@dataclass(frozen=True, slots=True)
class Records:
    """Say what became of several jobs. Answered by a list: what each record is answered, or the error that it met."""

    records: Sequence[Record]


@dataclass(frozen=True, slots=True)
class Call:
    """Anything else that is asked of a seam; ``what`` names it in traces."""

    seam: Seam
    what: str
    do: Callable[[], object]


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait for this many seconds. The answer is whether the event came meanwhile, which ends the wait."""

    seconds: float
    unless: threading.Event


@dataclass(frozen=True, slots=True)
class Run:
    """Run the job; answered by how that ended."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended.

    Attributes:
        error: What it raised.
        skipped: Whether other middleware has skipped it: it is done.
        rejected: Whether other middleware has rejected it: it is dead, and the broker dead-letters it.
    """

    error: BaseException | None = None
    skipped: bool = False
    rejected: bool = False


Effect = Claim | Record | Records | Call | Pause | Run

#: Any: the answer is of the kind that the effect asks for.
Steps = Generator[Effect, Any, T]


class Performs(Protocol):
    """Carries effects out."""

    def __call__(self, effect: Effect) -> object:
        """Return the answer, or raise what the step is to be told."""


class Walk:
    """Steps that are under way.

    They have a context of their own (``contextvars``), which goes with them from thread to thread.

    Args:
        steps: Not begun.
        perform: Carries out effects.

    Attributes:
        context: The steps' own. What runs for them runs in it, too.
        effect: What they have stopped at.
        result: What they have returned.
        ended: Whether they have.
    """

    def __init__(self, steps: Steps[T], perform: Performs) -> None:
        self.context = copy_context()
        self._steps = steps
        self._perform = perform
        self.effect: Effect | None = None
        self.result: object = None
        self.ended = False

    def go_on(self, answer: object = None, error: BaseException | None = None, *, until: type[Effect] = Run) -> bool:
        """Take the steps on to the next effect of the kind ``until``, which somebody else carries out.

        Args:
            answer: To the effect that they have stopped at.
            error: What it has met instead.
            until: Where to stop.

        Returns:
            Whether they have stopped there; False once they have ended. Raises what the steps raise.
        """
        return self.context.run(self._go_on, answer, error, until)

    def step(self, answer: object = None, error: BaseException | None = None) -> Effect | None:
        """Take the steps on to the next effect, whichever that is, and return it; None once they have ended."""
        return self.context.run(self._step, answer, error)

    def _step(self, answer: object, error: BaseException | None) -> Effect | None:
        try:
            self.effect = self._steps.send(answer) if error is None else self._steps.throw(error)
        except StopIteration as end:
            self.effect, self.result, self.ended = None, end.value, True
        except BaseException:
            self.effect, self.ended = None, True
            raise
        return self.effect

    def _go_on(self, answer: object, error: BaseException | None, until: type[Effect]) -> bool:
        while True:
            effect = self._step(answer, error)
            if effect is None:
                return False
            if isinstance(effect, until):
                return True
            try:
                answer, error = self._perform(effect), None
            except BaseException as failure:  # the step decides what it means
                error = failure


def take(steps: Steps[T], perform: Performs) -> T:
    """Take steps, which run no job, to their end, and return their result."""
    walk = Walk(steps, perform)
    if walk.go_on():
        raise AssertionError("these steps run no job")
    result: T = walk.result  # type: ignore[assignment]  # the steps' own
    return result
