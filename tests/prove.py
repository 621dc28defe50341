"""Runs the large size of every proof, and writes the results to ``docs/reference/proofs.md``.

    make prove                                       all; at most 75 minutes
    .venv/bin/python tests/prove.py -k rolling       a part, with pytest's options; the page stays as it is

The exit status is 0 only if every proof has passed.
"""

import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "harness"))

from proofs import Proofs, page

PAGE = HERE.parent / "docs/reference/proofs.md"


def main(options: list[str]) -> int:
    """Return the exit status."""
    os.environ["PROVE"] = "1"  # what tests/harness/sizes.py looks at
    proofs = Proofs()
    status = int(pytest.main(["-q", "-m", "prove", *options, str(HERE)], plugins=[proofs]))
    text = page(list(proofs.rows()))
    print(text)  # noqa: T201  the result of the command
    if not options:
        PAGE.write_text(text)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
