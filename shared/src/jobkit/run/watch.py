"""What surrounds a job's path and sees what became of it: a span, log lines, an error report."""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

from jobkit.execution import Execution

#: Entered before the first step; ``execution.ended`` says at its exit what became of the delivery.
Watcher = Callable[[Execution], AbstractContextManager[object]]

log = logging.getLogger(__name__)


def watching(*watchers: Watcher) -> Watcher:
    """Return all of them as one, the first outermost. A mistake in one neither harms the job nor the others."""

    @contextmanager
    def watch(execution: Execution) -> Iterator[None]:
        with ExitStack() as stack:
            for watcher in watchers:
                _enter(stack, watcher, execution)
            yield

    return watch


def _enter(stack: ExitStack, watcher: Watcher, execution: Execution) -> None:
    context: AbstractContextManager[object] = nullcontext()
    try:
        context = watcher(execution)
        context.__enter__()
    except Exception:
        log.exception("what watches jobs could not begin")
        return

    def leave() -> None:
        try:
            context.__exit__(None, None, None)
        except BaseException:  # it asks the job's exception for its text, which may raise anything
            log.exception("what watches jobs could not end")

    stack.callback(leave)
