"""How long a training may go on in one delivery."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from math import inf
from time import monotonic
from typing import Final

from inference_service.errors import EpochTooLong, EpochTooSlow
from jobkit.errors import Snooze, TimeLimitExceeded

#: Seconds of the time limit that are kept for what follows the last epoch: export, check and publication.
LONGEST_RESERVE: Final = 60.0


class Pace:
    """Ends a delivery between two epochs, before the time limit ends it within one.

    Args:
        time_slice: From then on the delivery ends with the epoch.
        time_limit: When the job is interrupted; None if it is not.
        stopping: Whether the worker was told to stop.
        clock: Seconds.
    """

    def __init__(
        self,
        time_slice: timedelta,
        time_limit: timedelta | None,
        stopping: Callable[[], bool],
        *,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._clock = clock
        self._began = clock()
        self._slice = time_slice.total_seconds()
        self._limit = inf if time_limit is None else time_limit.total_seconds()
        # What must be over by then is an epoch, and what is left is for export, check and publication.
        self._end = self._limit - min(LONGEST_RESERVE, self._limit / 10) if time_limit else inf
        self._stopping = stopping
        self._longest = 0.0
        self._epoch = self._rows = 0
        self._epoch_began = self._began
        self._marks: list[tuple[float, float]] = []  # of this epoch: when which part of it was done

    @contextmanager
    def epoch(self, number: int, rows: int) -> Iterator[None]:
        """Measure an epoch; one that runs into the time limit though it had all of it is told from a slow delivery."""
        self._epoch, self._rows, self._epoch_began, self._marks = number, rows, self._clock(), []
        try:
            yield
        except TimeLimitExceeded as struck:
            spent = self._clock() - self._epoch_began
            if number == 1 and self._limit < inf and spent > self._limit / 2:
                part = self._marks[-1][1] if self._marks else 0.0
                raise EpochTooLong(
                    f"the first epoch was not over after {spent:.0f} s, {part:.0%} of it were done, and a job may run "
                    f"for {self._limit:.0f} s: {self._advice()}"
                ) from struck
            raise
        self._longest = max(self._longest, self._clock() - self._epoch_began)

    def after_batch(self, part: float) -> None:
        """Hand the job back when its worker stops, or when this epoch will not end in time."""
        if self._stopping():
            raise Snooze(0, "the worker stops: the training goes on elsewhere from its last epoch")
        now = self._clock()
        self._marks = [*self._marks[:1], (now, part)]
        if part >= 1 or self._limit == inf:
            return
        if self._longest and now - self._began > self._end:
            raise Snooze(1, f"epoch {self._epoch} takes longer than those before it: it has the next delivery alone")
        if not self._longest and now - self._epoch_began > self._limit / 4 and len(self._marks) > 1:
            self._refuse_if_too_long()

    def _refuse_if_too_long(self) -> None:
        (first, first_part), (last, last_part) = self._marks
        # Without what the first batch took: it includes what is done once.
        expected = first - self._epoch_began + (last - first) / (last_part - first_part) * (1 - first_part)
        reading = self._epoch_began - self._began
        if reading + expected <= self._end:
            return
        text = (
            f"an epoch takes about {expected:.0f} s after {reading:.0f} s to read the data, and a job may run for "
            f"{self._limit:.0f} s"
        )
        if self._epoch == 1:
            raise EpochTooLong(f"{text}: {self._advice()}")
        raise EpochTooSlow(f"{text}. The epochs before number {self._epoch} took less: is the machine overloaded?")

    def _advice(self) -> str:
        return f"train on fewer than {self._rows:,} rows, with larger batches or with fewer hidden units"

    def hand_back_if_due(self, epoch: int, epochs: int) -> None:
        """After an epoch: raise ``Snooze`` if the next one, or the publication, is for another delivery."""
        spent = self._clock() - self._began
        done = f"epoch {epoch} of {epochs} is saved"
        if epoch == epochs:
            if spent > self._end:
                raise Snooze(1, f"{done}: the next delivery publishes the model")
            return
        if self._stopping():
            raise Snooze(0, f"{done}, and the worker stops: the training goes on elsewhere")
        # A tenth more: no epoch is as long as the other.
        end = self._end if self._end < inf else self._slice
        if spent > self._slice or spent + 1.1 * self._longest > end:
            raise Snooze(1, f"{done}: the rest is for the next delivery")
