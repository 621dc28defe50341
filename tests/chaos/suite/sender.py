"""Sends one system's jobs with care: what raised is sent again under the same id, and what became of it written down.

``sender.py MODULE PLAN`` with the plan as JSON: count, copies, delay, fail_once, seconds (a job's length on average),
over (seconds that the second half of the jobs is spread over).
"""

import importlib
import json
import os
import random
import sys
import time
from pathlib import Path

from ledger import Ledger

#: A job's length as a part of the average, at least and at most.
SHORTEST, LONGEST = 0.5, 1.5
#: Seconds between a send that raised and the next try.
PAUSE = 0.2


def main(module: str, plan: dict[str, float]) -> None:
    """Send half of the jobs at once, so that there is a backlog, and the others at an even pace."""
    sender = importlib.import_module(module).Sender()
    ledger = Ledger(Path(os.environ["SUITE_FOLDER"]) / "sent")
    draw = random.Random(7)
    count, at_once = int(plan["count"]), int(plan["count"]) // 2
    paced_from = 0.0
    for number in range(count):
        if number == at_once:
            paced_from = time.monotonic()
        if number > at_once:
            time.sleep(max(0.0, paced_from + (number - at_once) / at_once * plan["over"] - time.monotonic()))
        name, seconds = f"job-{number:06}", plan["seconds"] * draw.uniform(SHORTEST, LONGEST)
        for _ in range(int(plan["copies"])):
            while True:
                try:
                    sender.send(name, seconds, fail_once=bool(plan["fail_once"]), delay=plan["delay"])
                except Exception as error:
                    ledger.write("raised", name)
                    print(f"{name}: {type(error).__name__}: {error}", flush=True)  # noqa: T201  goes to its log
                    time.sleep(PAUSE)
                else:
                    break
        ledger.write("accepted", name)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
