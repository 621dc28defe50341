"""How far a benchmark is, and whether another round fits into its time."""

import time
from collections.abc import Callable, Iterator

from rich.progress import Progress


class Steps:
    """A progress bar, and the time that is left.

    Args:
        progress: Shows it.
        total: Steps.
        budget: Seconds.
        clock: Tells the time.
    """

    def __init__(
        self, progress: Progress, total: int, budget: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=total)
        self._clock = clock
        self._end = clock() + budget

    def rounds(self, what: str, count: int) -> Iterator[int]:
        """Count rounds from 0, and stop before one that would not end in time.

        A round is expected to take as long as the longest before it. The first one runs in any case.
        """
        longest = 0.0
        for number in range(count):
            begin = self._clock()
            if number and begin + longest > self._end:
                self._progress.console.print(f"{what}: {number} of {count} rounds fit into the time")
                return
            yield number
            longest = max(longest, self._clock() - begin)

    def say(self, text: str) -> None:
        """Show what is being measured; in a log each on a line of its own."""
        self._progress.update(self._task, description=text)
        if not self._progress.console.is_terminal:
            self._progress.console.print(text)

    def done(self) -> None:
        """Count a step."""
        self._progress.advance(self._task)
