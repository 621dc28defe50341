"""One sender's messages on their way to the broker: a window of them, sent again where that can help."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from jobkit.broker.confirmed_channel import WINDOW
from jobkit.broker.outgoing import Outgoing
from jobkit.broker.publisher import ConfirmedPublisher
from jobkit.contracts.payload import PayloadChanged
from jobkit.errors import AccessRefused, BrokerUnavailable, SendError, SendRefused, Unroutable

#: Seconds before a refused message is sent again. A quorum queue refuses while it has no leader, which passes.
_REFUSAL_PAUSES: Final = (0.1, 0.4, 1.5)

#: Bytes of one sender's messages that wait for their confirms: what a stream of large ones holds in memory.
_MOST_BYTES: Final = 16_777_216


@dataclass(slots=True)
class Parcel:
    """A message that is published as often as it takes.

    Attributes:
        outgoing: Its latest copy; None if it cannot be published at all, for the reason in ``error``.
        error: Why it was not confirmed in the end.
        published: When its latest copy was, by the monotonic clock.
        refusals: How often the broker did not take it.
    """

    outgoing: Outgoing | None
    error: SendError | PayloadChanged | None = None
    published: float = 0.0
    refusals: int = 0

    @property
    def size(self) -> int:
        """Bytes of its body."""
        return len(self.outgoing.body) if self.outgoing else 0

    @property
    def known(self) -> bool:
        """Whether the broker has answered."""
        return self.outgoing is None or self.error is not None or self.outgoing.settled


class Shipment:
    """Publishes parcels without waiting for each, and gives them back in order.

    Args:
        publisher: Where they are published.
        timeout: Seconds without any confirm after which the broker counts as gone.
        make_queue: Makes a queue that is missing; raises ``SendError``.
        gather: Whether many follow each other.
    """

    def __init__(
        self, publisher: ConfirmedPublisher, timeout: float, make_queue: Callable[[str], None], *, gather: bool
    ) -> None:
        self._publisher = publisher
        self._timeout = timeout
        self._make_queue = make_queue
        self._gather = gather
        self._window: deque[Parcel] = deque()
        self._bytes = 0
        self._emptying = False
        self._answered = 0.0
        self._made_at: dict[str, float] = {}
        self._cannot_be_made: dict[str, SendError] = {}
        self._gone: BrokerUnavailable | None = None

    def __len__(self) -> int:
        return len(self._window)

    @property
    def gone(self) -> bool:
        """Whether the broker no longer answers; nothing more should be put into it."""
        return self._gone is not None

    @property
    def due(self) -> bool:
        """Whether to take a parcel before the next is put: the first is answered, or the window is full.

        A full window is emptied by half, or the two threads would wake each other for each message.
        """
        if len(self._window) >= WINDOW or self._bytes >= _MOST_BYTES:
            self._emptying = True
        elif len(self._window) <= WINDOW // 2 and self._bytes <= _MOST_BYTES // 2:
            self._emptying = False
        return bool(self._window) and (self._emptying or self._window[0].known)

    def put(self, parcel: Parcel) -> None:
        """Publish a parcel."""
        self._window.append(parcel)
        self._bytes += parcel.size
        self._publish(parcel)

    def take(self) -> Parcel:
        """Wait until it is known what became of the first parcel, and return it."""
        parcel = self._window[0]
        while not self._is_done(parcel):
            pass
        self._bytes -= parcel.size
        return self._window.popleft()

    def abandon(self) -> None:
        """Forget what is still on its way, because nobody waits for it any more."""
        self._publisher.abandon(parcel.outgoing for parcel in self._window if parcel.outgoing and not parcel.known)
        self._window.clear()

    def _publish(self, parcel: Parcel) -> None:
        if parcel.outgoing is None:
            return
        parcel.published = time.monotonic()
        try:
            self._publisher.begin(parcel.outgoing, gather=self._gather)
        except BrokerUnavailable as error:
            parcel.error = self._gone = error

    def _is_done(self, parcel: Parcel) -> bool:
        """Wait for the answer to the parcel's latest copy; return whether it is the last one."""
        outgoing = parcel.outgoing
        if outgoing is None or parcel.error is not None:
            return True
        if self._gone is not None and not outgoing.settled:
            self._publisher.abandon([outgoing])
            parcel.error = self._gone
            return True
        self._publisher.wait(outgoing, self._timeout, since=max(parcel.published, self._answered))
        error = outgoing.error
        if isinstance(error, BrokerUnavailable):
            self._gone = error
        else:
            self._answered = max(self._answered, outgoing.settled_at)
        if error is not None and self._has_tried_again(parcel, outgoing, error):
            return False
        if parcel.error is None:  # else its queue could not be made, which says more
            parcel.error = error
        return True

    def _has_tried_again(self, parcel: Parcel, outgoing: Outgoing, error: SendError) -> bool:
        """Publish the parcel again if that can help; return whether it is on its way."""
        if not isinstance(error, (Unroutable, SendRefused)) or parcel.refusals == len(_REFUSAL_PAUSES):
            return False
        if isinstance(error, AccessRefused):  # a permission does not come back within a second
            return False
        if isinstance(error, Unroutable):
            if not self._has_made_queue(parcel, outgoing.queue):
                return False
            self._publish_again(parcel, outgoing)
            return True
        pause = _REFUSAL_PAUSES[parcel.refusals]
        if pause > self._timeout:
            return False
        time.sleep(max(0.0, outgoing.settled_at + pause - time.monotonic()))
        self._publish_refused()
        return True

    def _publish_refused(self) -> None:
        """Publish again what was refused and has had its pause: together, or each would wait for the others."""
        now = time.monotonic()
        for parcel in self._window:
            outgoing = parcel.outgoing
            if outgoing is None or parcel.error is not None or not isinstance(outgoing.error, SendRefused):
                continue
            if parcel.refusals < len(_REFUSAL_PAUSES) and outgoing.settled_at + _REFUSAL_PAUSES[parcel.refusals] <= now:
                self._publish_again(parcel, outgoing)

    def _publish_again(self, parcel: Parcel, outgoing: Outgoing) -> None:
        parcel.refusals += 1
        parcel.outgoing = outgoing.again()
        self._publish(parcel)

    def _has_made_queue(self, parcel: Parcel, queue: str) -> bool:
        if self._made_at.get(queue, 0.0) > parcel.published:
            return True  # for one that was published beside it
        if queue in self._cannot_be_made:
            parcel.error = self._cannot_be_made[queue]
            return False
        try:
            self._make_queue(queue)
        except SendError as error:
            parcel.error = self._cannot_be_made[queue] = error
            return False
        self._made_at[queue] = self._answered = time.monotonic()
        return True
