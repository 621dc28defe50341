"""Logs for people: a failure's traceback as Python prints it, and nothing of the payload."""

import subprocess
import sys

FAILING = """
import logging
from jobkit.middleware.logs import configure_logging

configure_logging("console", "INFO")

def send(payload):
    raise ValueError("told to fail")

secret = {"password": "s3cret"}  # not on a line that the traceback quotes
try:
    send(secret)
except ValueError as error:
    logging.getLogger("jobkit.jobs").warning("job failed", exc_info=error)
"""


def test_a_traceback_is_short_and_shows_no_local_variable() -> None:
    done = subprocess.run([sys.executable, "-c", FAILING], capture_output=True, text=True, check=True)
    lines = done.stderr.splitlines()
    assert "job failed" in lines[0]
    assert lines[-1] == "ValueError: told to fail"
    assert len(lines) < 10
    assert "s3cret" not in done.stderr
