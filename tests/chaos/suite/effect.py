"""What a job of any system does: write that it starts, take a moment, fail once if told to, write that it has ended.

``SUITE_FOLDER`` names the folder of the run. Jobs that run while there is a file ``trouble`` in it fail once, too. The
time of day may be wrong here on purpose, so lines are dated by the machine's uptime, since ``SUITE_EPOCH``.
"""

import os
import time
from pathlib import Path

from ledger import Ledger


class ToldToFail(Exception):
    """The job's first run, which was to fail."""


def work(name: str, seconds: float, fail_once: bool) -> None:
    """Do one job's work."""
    folder, epoch = Path(os.environ["SUITE_FOLDER"]), float(os.environ["SUITE_EPOCH"])
    ledger = Ledger(folder / "ledger", clock=lambda: epoch + time.monotonic())
    ledger.write("start", name)
    time.sleep(seconds)
    if (fail_once or (folder / "trouble").exists()) and _is_first(folder / "failed" / name):
        ledger.write("fail", name)
        raise ToldToFail(name)
    ledger.write("end", name)


def _is_first(mark: Path) -> bool:
    # Each system counts attempts in its own way, so the file system does it for all of them.
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
