"""Explore a job's path: walk after walk through a simulated world, until time is over or something is found.

python tests/explore/explore.py --seconds 60
python tests/explore/explore.py --case duplicate --seed 4711     # one walk again, with its story
"""

import argparse
import logging
import os
import secrets
import sys
import time
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "simulation"))

from walks import CASES, MISTAKES, walk

#: Walks between two looks at the clock.
PART = 200


def walks(part: tuple[int, str]) -> tuple[int, str]:
    """Take a part of the walks; how many there were, and the first finding."""
    first, mistake = part
    logging.disable(logging.CRITICAL)  # the path logs what the faults do to it
    names = list(CASES)
    for number in range(PART):
        seed = first + number
        case = names[seed % len(names)]
        found = walk(case, seed, mistake)
        if found:
            return number + 1, f"--case '{case}' --seed {seed}: {found}"
    return PART, ""


def say(text: str) -> None:
    """Write to standard output."""
    sys.stdout.write(f"{text}\n")


def main() -> int:
    """Explore; the exit status is 1 if something was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--case", choices=CASES, help="replay one walk of this case")
    parser.add_argument("--seed", type=int, help="the number of the walk, or the first of many")
    parser.add_argument("--mistake", choices=MISTAKES, default="", help="make this mistake in the path")
    options = parser.parse_args()
    if options.case is not None:
        logging.disable(logging.CRITICAL)
        found = walk(options.case, options.seed or 0, options.mistake)
        say(found or "nothing was found")
        return 1 if found else 0
    base = secrets.randbelow(10**9) if options.seed is None else options.seed
    began, count, finding, processes = time.monotonic(), 0, "", os.cpu_count() or 1
    with get_context("spawn").Pool(processes) as pool:
        while not finding and time.monotonic() < began + options.seconds:
            parts = [(base + count + PART * number, options.mistake) for number in range(4 * processes)]
            done = pool.map(walks, parts, chunksize=1)
            count += sum(number for number, _ in done)
            finding = next((found for _, found in done if found), "")
    took = time.monotonic() - began
    rate = f"{took:.0f} s, {count / took:,.0f} a second"
    say(finding or f"nothing was found in {count:,} walks from seed {base} on ({rate})")
    return 1 if finding else 0


if __name__ == "__main__":
    sys.exit(main())
