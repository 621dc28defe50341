"""Sends jobs of one system, and prints how many per second: ``timed_sender.py MODULE one_by_one|bulk|paced COUNT``."""

import importlib
import sys
import time


def main(module: str, how: str, count: int) -> None:
    """Send ``count`` jobs after one that opens the connection."""
    system = importlib.import_module(module)
    with system.Sender() as sender:
        started = time.perf_counter()
        match how:
            case "one_by_one":
                for _ in range(count):
                    sender.send(time.time())
            case "bulk":
                sender.send_many(count)
            case "paced":
                for number in range(count):
                    time.sleep(max(0.0, started + number / 100 - time.perf_counter()))
                    sender.send(time.time())
        elapsed = time.perf_counter() - started
    print(count / elapsed)  # noqa: T201  its result, read by the benchmark


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
