"""``python -m jobkit.cli.worker_process``: Dramatiq's own command with the same start method on every Python.

The default is ``forkserver`` on Linux from Python 3.14 on. It keeps two more processes for each worker, and the exit
status of a worker is lost if its fork server is killed.
"""

import multiprocessing
import sys

from dramatiq.cli import main

if __name__ == "__main__":
    # The command has one thread when it forks. On macOS the system's own libraries do not survive a fork.
    multiprocessing.set_start_method("spawn" if sys.platform == "darwin" else "fork")
    sys.exit(main())  # type: ignore[no-untyped-call]  # Dramatiq's command has no annotations
