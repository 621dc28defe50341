"""Waiting for a condition, with a bound."""

import time
from collections.abc import Callable


def wait(condition: Callable[[], bool], what: str, limit: float = 30.0) -> None:
    """Return once the condition holds; fail after ``limit`` seconds."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come within {limit:g} s"
        time.sleep(0.05)
