"""Loaded into each Python process under a moved clock, as its ``sitecustomize``.

Python sleeps with ``clock_nanosleep`` until a monotonic deadline, and libfaketime 0.9.10 answers EINVAL to that.
"""

import select
import time
from typing import SupportsIndex


def _sleep(seconds: float | SupportsIndex) -> None:
    select.select([], [], [], float(seconds))


time.sleep = _sleep
