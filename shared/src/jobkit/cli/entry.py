"""What the ``jobkit`` command runs first.

Process 1 of a container has no default action for SIGTERM: the kernel drops a signal that comes before there is a
handler. Therefore the handler is set here, before the rest of the command is loaded, and this module imports little.
"""

import os
import signal
import sys
from contextlib import nullcontext
from types import FrameType

#: The commands that run until they are told to stop.
_LASTING = frozenset({"worker", "scheduler"})


def main() -> None:
    """Run the command."""
    lasting = not _LASTING.isdisjoint(sys.argv[1:2])
    if lasting:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _end)
    from jobkit.cli.exit_status import replaced_if_hopeless
    from jobkit.cli.main import app

    with replaced_if_hopeless() if lasting else nullcontext():
        app(prog_name="jobkit")


def _end(_number: int, _frame: FrameType | None) -> None:
    os._exit(0)  # nothing has begun, so nothing has to be finished
