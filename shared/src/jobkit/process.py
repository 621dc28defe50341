"""Who a worker process is: the name that its leases carry, and which of its jobs have begun.

The supervisor of a worker process gives it both, and keeps them after its end. So it can say at once that the leases of
this name are over, and which jobs may have had a part in that end.
"""

import itertools
import mmap
import secrets
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

_CELL: Final = 8  #: bytes, which one instruction writes

#: A thread has one job that runs; more may have run and wait for their record, twice as many as there are threads, and
#: as many may be on their way to the store.
_JOBS_PER_THREAD: Final = 8


class Begun:
    """The numbers of the jobs that run, in memory that a process shares with its supervisor, and that survives it.

    Args:
        memory: As ``shared_memory`` makes it, all zeros. One job at a time has a cell of it.
    """

    def __init__(self, memory: mmap.mmap | bytearray) -> None:
        cells = memoryview(memory).cast("Q")
        self._said, self._cells = cells[:1], cells[1:]
        self._free = deque(range(len(self._cells)))  # whose methods no other thread interrupts

    @property
    def deaths(self) -> int:
        """How many processes of the same supervisor have died of late, as that has said."""
        return self._said[0]

    @deaths.setter
    def deaths(self, number: int) -> None:
        self._said[0] = number

    def note(self, number: int) -> int:
        """Note that a job begins, and return its cell; raises ``IndexError`` if more jobs run than there are cells."""
        cell = self._free.pop()
        self._cells[cell] = number
        return cell

    def erase(self, cell: int) -> None:
        """Note that the job of a cell has ended, and what became of it is recorded."""
        self._cells[cell] = 0
        self._free.append(cell)

    def numbers(self) -> frozenset[int]:
        """Return the numbers of all jobs that have begun, and not ended."""
        return frozenset(self._cells) - {0}


def size_for(threads: int) -> int:
    """Return how many bytes of memory a process of so many threads needs."""
    return _CELL * (1 + _JOBS_PER_THREAD * threads)


def shared_memory(threads: int, file: int = -1) -> mmap.mmap:
    """Return memory for a process of so many threads, shared with those that are forked, or that have the file."""
    return mmap.mmap(file, size_for(threads))


@dataclass(frozen=True)
class Identity:
    """A worker process, from its start to its end.

    Attributes:
        name: Random, and never used again.
        begun: Which of its jobs run; None if nobody would look.
        started_at: In milliseconds since the epoch.
    """

    name: str = field(default_factory=lambda: secrets.token_hex(8))
    begun: Begun | None = None
    started_at: int = field(default_factory=lambda: round(time.time() * 1000))
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1), repr=False)

    def owner(self) -> str:
        """Return a name under which one delivery asks for its lease."""
        return f"{self.name}:{next(self._numbers)}"


_given: list[Identity] = []


def give(identity: Identity) -> None:
    """Let the worker that starts next in this process be known by ``identity``, because its supervisor knows that."""
    _given.append(identity)


def take() -> Identity:
    """Return who the worker that starts now is: as its supervisor has said, or somebody new."""
    return _given.pop() if _given else Identity()
