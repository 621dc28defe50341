"""Adds to an account under one key, says so, and waits to be killed: before the commit, or after it.

Arguments: the bank's kind, its address, ``before`` or ``after``.
"""

import sys
from pathlib import Path

from bank import SQLITE_KINDS, postgresql_bank, sqlite_bank

from jobkit.inbox import Inbox


def stand_still(moment: str) -> None:
    """Until killed, or until whoever started this has ended."""
    print(moment, flush=True)  # noqa: T201  read by the test
    sys.stdin.read()


if __name__ == "__main__":
    kind, address, asked = sys.argv[1:]
    bank = sqlite_bank(kind, Path(address)) if kind in SQLITE_KINDS else postgresql_bank(kind, address)
    with bank.begin() as transaction:
        Inbox().once(transaction, "credit/1", lambda: bank.add(transaction, 10))
        if asked == "before":
            stand_still(asked)
    stand_still("after")
