"""Explore a job's path: walk after walk through a simulated world, until time is over or something is found.

python tests/explore/explore.py --seconds 60
python tests/explore/explore.py --case duplicate --seed 4711     # one walk again, with its story
"""

import argparse
import itertools
import logging
import os
import secrets
import sys
import time
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "simulation"))

from walks import CASES, MISTAKES, walk


@dataclass(frozen=True)
class Share:
    """What one process walks: every ``step``-th seed from ``first`` on, for so many seconds."""

    first: int
    step: int
    seconds: float
    mistake: str


def walks(share: Share) -> tuple[int, str]:
    """Take a share of the walks; how many there were, and the first finding."""
    logging.disable(logging.CRITICAL)  # the path logs what the faults do to it
    names, until = list(CASES), time.monotonic() + share.seconds
    for number in itertools.count():
        if time.monotonic() >= until:
            break
        seed = share.first + share.step * number
        case = names[seed % len(names)]
        found = walk(case, seed, share.mistake)
        if found:
            return number + 1, f"--case '{case}' --seed {seed}: {found}"
    return number, ""


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
    count, finding, processes = 0, "", os.cpu_count() or 1
    shares = [Share(base + number, processes, options.seconds, options.mistake) for number in range(processes)]
    with get_context("spawn").Pool(processes) as pool:
        for number, finding in pool.imap_unordered(walks, shares):
            count += number
            if finding:
                break  # which ends the others
    rate = f"{options.seconds:.0f} s, {count / options.seconds:,.0f} a second"
    say(finding or f"nothing was found in {count:,} walks from seed {base} on ({rate})")
    return 1 if finding else 0


if __name__ == "__main__":
    sys.exit(main())
