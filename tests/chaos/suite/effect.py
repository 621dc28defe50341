"""What a job of any system does: write that it starts, take a moment, fail once if told to, write that it has ended."""

import os
import time
from pathlib import Path

from ledger import Ledger


class ToldToFail(Exception):
    """The job's first run, which was to fail."""


def work(name: str, seconds: float, fail_once: bool) -> None:
    """Do one job's work; the ledger is in the folder that ``SUITE_FOLDER`` names."""
    folder = Path(os.environ["SUITE_FOLDER"])
    ledger = Ledger(folder / "ledger")
    ledger.write("start", name)
    time.sleep(seconds)
    if fail_once and _is_first(folder / "failed" / name):
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
