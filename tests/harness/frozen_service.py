"""The probe service, whose consumers stop doing their work when a file beside the ledger says how."""

import os
import time
from pathlib import Path

import probe_service

from jobkit.broker.session import Session

_FOLDER = Path(os.environ["PROBE_LEDGER"]).parent
_wait = Session.wait


def wait(self: Session, timeout: float) -> None:
    """Exchange data as before; unless the thread is to hang, or to lose its subscription without a word."""
    while (_FOLDER / "freeze").exists():
        time.sleep(0.05)
    if (_FOLDER / "unsubscribe").exists():
        self.channel.basic_cancel(self._consumer_tag)
        (_FOLDER / "unsubscribe").unlink(missing_ok=True)
    _wait(self, timeout)


def broker() -> None:
    """What the dramatiq command calls."""
    Session.wait = wait  # type: ignore[method-assign]  # as above
    probe_service.broker()
