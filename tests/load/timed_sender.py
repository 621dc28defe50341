"""Sends jobs of one system: ``timed_sender.py MODULE one_by_one|bulk|fill|paced|delayed COUNT SECONDS BYTES``.

Prints a line of JSON: how many it sent in a second, and the most memory that it took. The first job opens the
connection and is not timed.
"""

import importlib
import json
import resource
import sys
import time
from collections.abc import Iterator

from bench_job import Load, Sender

PACE = 100  #: Jobs per second of ``paced``.
DELAY = 3600  #: Seconds that ``delayed`` puts its jobs off.


def main(module: str, how: str, count: int, seconds: float, size: int) -> None:
    """Send ``count`` jobs."""
    system = importlib.import_module(module)
    with system.Sender(confirmed=how not in {"fill", "delayed"}) as sender:
        per_second = send(sender, how, count, Load(0.0, seconds, "x" * size))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # kilobytes on Linux, see getrusage(2)
    print(json.dumps({"per_second": per_second, "peak_bytes": peak}))  # noqa: T201  its result, read by the benchmark


def send(sender: Sender, how: str, count: int, load: Load) -> float:
    """Return how many jobs were sent in a second."""
    delay = DELAY if how == "delayed" else 0
    sender.send_many(_loads(1, load), delay)
    begin = time.perf_counter()
    match how:
        case "one_by_one":
            for one in _loads(count - 1, load):
                sender.send(one)
        case "paced":
            for number in range(1, count):
                time.sleep(max(0.0, begin + number / PACE - time.perf_counter()))
                sender.send(load._replace(sent=time.time()))
        case _:
            sender.send_many(_loads(count - 1, load), delay)
    return (count - 1) / (time.perf_counter() - begin)


def _loads(count: int, load: Load) -> Iterator[Load]:
    for _ in range(count):
        yield load._replace(sent=time.time())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5]))
