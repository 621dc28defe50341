"""What surrounds a job's path and sees what became of it: a span, log lines, an error report."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

from jobkit.execution import Execution

#: A generator that yields once, before the first step. When it goes on, ``execution.ended`` says what became of the
#: delivery.
Watcher = Callable[[Execution], Iterator[None]]

#: All of them as one.
Watch = Callable[[Execution], AbstractContextManager[object]]

log = logging.getLogger(__name__)


def watching(*watchers: Watcher) -> Watch:
    """Return watchers as one, the first outermost. A mistake in one neither harms the job nor the others."""
    return lambda execution: _Watching(watchers, execution)


class _Watching:
    """Enters what watches one job, and leaves it in the reverse order."""

    def __init__(self, watchers: Sequence[Watcher], execution: Execution) -> None:
        self._watchers, self._execution = watchers, execution
        self._entered: list[Iterator[None]] = []

    def __enter__(self) -> None:
        for watcher in self._watchers:
            try:
                steps = watcher(self._execution)
                next(steps)
            except Exception:
                log.exception("what watches jobs could not begin")
            else:
                self._entered.append(steps)

    def __exit__(self, *_: object) -> None:
        while self._entered:
            try:
                next(self._entered.pop(), None)
            except BaseException:  # it asks the job's exception for its text, which may raise anything
                log.exception("what watches jobs could not end")
