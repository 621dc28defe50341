"""What the ``jobkit`` command runs first.

Process 1 of a container has no default action for SIGTERM: the kernel drops a signal that comes before there is a
handler. Therefore the handler is set here, before the rest of the command is loaded, and this module imports little.

The interpreter itself takes some hundredths of a second to start. Whoever starts the command can block the signals
until then (``env --block-signal``, as the images do): the kernel keeps a blocked signal, for process 1 too.
"""

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from types import FrameType

#: The commands that run until they are told to stop.
_LASTING = frozenset({"worker", "scheduler"})

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def main() -> None:
    """Run the command."""
    if not _LASTING.isdisjoint(sys.argv[1:2]):
        for number in _STOP_SIGNALS:
            signal.signal(number, _end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
    from jobkit.cli.exit_status import replaced_if_hopeless

    if (asked := plain_worker(sys.argv[1:])) is not None:
        with replaced_if_hopeless():
            run_worker(*asked)
        return
    from jobkit.cli.main import app, brief_commands

    # A name that is misspelt is hopeless as well: in a container it was meant to be one of the lasting commands.
    brief = not brief_commands(_LASTING).isdisjoint(sys.argv[1:2])
    with nullcontext() if brief else replaced_if_hopeless():
        app(prog_name="jobkit")


def plain_worker(words: Sequence[str]) -> tuple[str, list[str]] | None:
    """Read ``worker SERVICE``, with its queues, as Typer would; None for all else, and for what is wrong.

    Every worker process would keep the memory of what Typer imports.
    """
    services, queues, rest = list[str](), list[str](), iter(words[1:])
    for word in rest:
        if word in {"-q", "--queue"}:
            queues.append(next(rest, "-"))
        else:
            services.append(word)
    read = [*services, *queues]
    if words[:1] != ["worker"] or len(services) != 1 or any(word.startswith("-") for word in read):
        return None
    return services[0], queues


def run_worker(service: str, queues: Sequence[str]) -> None:
    """Run a service's workers; of all queues if none is named."""
    from jobkit.cli.light import load

    load()
    from jobkit.cli.worker import run

    run(service, queues)


def _end(_number: int, _frame: FrameType | None) -> None:
    os._exit(0)  # nothing has begun, so nothing has to be finished
