"""Loaded into each Python process under a moved clock, as its ``sitecustomize``.

Python sleeps with ``clock_nanosleep`` until a monotonic deadline, and libfaketime 0.9.10 answers EINVAL to that.
"""

import select
import time


def _sleep(seconds: float) -> None:
    select.select([], [], [], seconds)


time.sleep = _sleep
