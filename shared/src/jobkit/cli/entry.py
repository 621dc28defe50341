"""What the ``jobkit`` command runs first.

Process 1 of a container has no default action for SIGTERM: the kernel drops a signal that comes before there is a
handler. Therefore the handler is set here, before the rest of the command is loaded, and this module imports little.
"""

import os
import signal
import sys
from types import FrameType

#: The commands that run until they are told to stop.
_LASTING = frozenset({"worker", "scheduler"})


def main() -> None:
    """Run the command."""
    if not _LASTING.isdisjoint(sys.argv[1:2]):
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _end)
    from jobkit.cli.main import app

    app(prog_name="jobkit")


def _end(_number: int, _frame: FrameType | None) -> None:
    os._exit(0)  # nothing has begun, so nothing has to be finished
