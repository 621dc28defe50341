"""Many jobs on their way: counted, and never all in memory."""

import uuid
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import timedelta
from time import monotonic
from typing import Any, Final, Protocol, Self

from dramatiq import Message

from jobkit.contracts.job import Job
from jobkit.contracts.payload import PayloadChanged
from jobkit.errors import SendError
from jobkit.receipt import MOST_REFUSALS, NotAllSent, Receipt, Refusal, Sent

#: Receipts that are gathered before somebody asks for them, and seconds that whoever makes the jobs may take for it.
_READ_AHEAD: Final = 1_000
_READ_AHEAD_SECONDS: Final = 1.0


class StreamsMessages(Protocol):
    """Where a stream of messages goes: RabbitMQ, or the queues of the embedded mode."""

    def stream(
        self, messages: Iterable[Message[Any]], *, delay: timedelta = timedelta()
    ) -> Iterator[tuple[Message[Any], SendError | PayloadChanged | None]]:
        """Publish messages as they come, and yield each with None, or with the error that it met."""


class Bulk:
    """Sends jobs as they come, and counts what becomes of them.

    Args:
        sender: Where they go.
        jobs: Read one by one, no faster than the broker confirms.
        message_for: Makes a job's message.
        delay: Run them no earlier than this from now.

    Attributes:
        reading: Seconds that reading the jobs has taken so far.
    """

    def __init__(
        self,
        sender: StreamsMessages,
        jobs: Iterable[Job],
        message_for: Callable[[Job], Message[Any]],
        delay: timedelta,
    ) -> None:
        self._sender = sender
        self._jobs = jobs
        self._message_for = message_for
        self._delay = delay
        self._on_the_way: deque[Job] = deque()
        self._refused: list[Refusal] = []
        self._accepted = 0
        self._taken = 0
        self._to_the_end = False
        self.reading = 0.0
        self._broken: Exception | None = None

    @property
    def sent(self) -> Sent:
        """What became of the jobs so far."""
        return Sent(self._accepted, self._taken, tuple(self._refused))

    def receipts(self) -> Iterator[Receipt]:
        """Send the jobs, and yield a receipt for each that is confirmed.

        Raises:
            NotAllSent: At the end, if any was not confirmed.
            Exception: What reading the jobs has raised, once it is known what became of those that were read. It gets
                the attributes ``sent`` and ``refused`` of ``NotAllSent``.
        """
        for message, error in self._sender.stream(self._messages(), delay=self._delay):
            job = self._on_the_way.popleft()
            if error is not None:
                self._refuse(Refusal(job, message.message_id, error))
                continue
            self._accepted += 1
            yield Receipt(message.message_id, message.actor_name, message.queue_name)
        if self._broken is not None:
            self._note_counts(self._broken)
            raise self._broken
        if self._accepted < self._taken:
            raise NotAllSent(self.sent, to_the_end=self._to_the_end)

    def _note_counts(self, broken: Exception) -> None:
        """Tell whoever made the jobs what became of those that were read: nobody else has the refused ones."""
        sent = self.sent
        rest = f"; the {sent.not_accepted:,} others are in .refused" if sent.not_accepted else ""
        with suppress(Exception):  # its class may let nobody set attributes, and what it says comes first
            broken.add_note(f"send_many had sent {sent.taken:,} jobs by then, {sent.accepted:,} are confirmed{rest}")
            for name, value in (("sent", sent), ("refused", sent.refused)):
                if not hasattr(broken, name):
                    setattr(broken, name, value)

    def _messages(self) -> Iterator[Message[Any]]:
        try:
            for job in self._timed():
                self._taken += 1
                try:
                    message = self._message_for(job)
                except PayloadChanged as error:
                    self._refuse(Refusal(job, str(uuid.uuid4()), error))
                else:
                    self._on_the_way.append(job)
                    yield message
                if len(self._refused) >= MOST_REFUSALS:
                    return
            self._to_the_end = True
        except Exception as error:  # of whoever makes the jobs; those that were read are on their way
            self._broken = error

    def _timed(self) -> Iterator[Job]:
        began = monotonic()
        for job in self._jobs:
            self.reading += monotonic() - began
            yield job
            began = monotonic()

    def _refuse(self, refusal: Refusal) -> None:
        if len(self._refused) < MOST_REFUSALS:
            self._refused.append(refusal)


class Receipts(Iterator[Receipt]):
    """The receipts of a ``send_many``, in the order of its jobs. Reading them sends the jobs.

    The first jobs, up to 1,000, are sent at once. Read all receipts: the rest is sent, and errors are raised, as they
    are read. Jobs or errors that are left over when nobody reads on are warned of. ``sent`` has the counts so far.
    """

    def __init__(self, bulk: Bulk) -> None:
        self._bulk = bulk
        self._receipts = bulk.receipts()
        self._gathered: deque[Receipt] = deque()
        self._end: Exception | None = None
        while len(self._gathered) < _READ_AHEAD and bulk.reading < _READ_AHEAD_SECONDS:
            self._gather()
            if self._end is not None:
                break

    @property
    def sent(self) -> Sent:
        """What became of the jobs so far."""
        return self._bulk.sent

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Receipt:
        if not self._gathered and self._end is None:
            self._gather()
        if self._gathered:
            return self._gathered.popleft()
        end, self._end = self._end, StopIteration()
        assert end is not None  # noqa: S101  it is what _gather has found instead of a receipt
        raise end

    def _gather(self) -> None:
        try:
            self._gathered.append(next(self._receipts))
        except Exception as end:  # a StopIteration, too
            self._end = end.with_traceback(None)  # which would keep this object alive

    def __del__(self) -> None:
        unread = getattr(self, "_end", None)
        if isinstance(unread, StopIteration) or not hasattr(self, "_gathered"):
            return
        sent = self.sent
        warnings.warn(
            f"the receipts of a send_many were not read to their end: {sent.accepted:,} of {sent.taken:,} jobs "
            "that were read are confirmed, further jobs were not read. Read all receipts, or leave out receipts=True",
            RuntimeWarning,
            stacklevel=2,
            source=self,
        )
