"""What surrounds a job's path and sees what became of it: a span, log lines, an error report."""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from jobkit.execution import Execution

#: Entered before the first step; ``execution.ended`` says at its exit what became of the delivery.
Watcher = Callable[[Execution], AbstractContextManager[object]]

log = logging.getLogger(__name__)


def watching(*watchers: Watcher) -> Watcher:
    """Return all of them as one, the first outermost. A mistake in one neither harms the job nor the others."""
    return lambda execution: _Watching(watchers, execution)


class _Watching:
    """Enters what watches one job, and leaves it in the reverse order."""

    def __init__(self, watchers: Sequence[Watcher], execution: Execution) -> None:
        self._watchers, self._execution = watchers, execution
        self._entered: list[AbstractContextManager[object]] = []

    def __enter__(self) -> None:
        for watcher in self._watchers:
            try:
                context = watcher(self._execution)
                context.__enter__()
            except Exception:
                log.exception("what watches jobs could not begin")
            else:
                self._entered.append(context)

    def __exit__(self, *_: object) -> None:
        while self._entered:
            try:
                self._entered.pop().__exit__(None, None, None)
            except BaseException:  # it asks the job's exception for its text, which may raise anything
                log.exception("what watches jobs could not end")
