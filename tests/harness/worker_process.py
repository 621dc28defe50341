"""A worker as production runs it: the stock dramatiq command, or jobkit's, in a process group of its own."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from ledger import Ledger
from process_table import children, command, descendants


class WorkerProcess:
    """Starts ``dramatiq MODULE:broker`` and ends it, whatever the test does.

    With ``supervised``, it is ``jobkit worker`` for ``service``, with a command for each process.
    """

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str],
        *,
        module: str = "probe_service",
        processes: int = 1,
        threads: int = 4,
        queues: tuple[str, ...] = (),
        name: str = "worker",
        supervised: bool = False,
        service: str = "supervised",
    ) -> None:
        self.log = folder / f"{name}.log"
        self.ledger = Ledger(folder / "ledger")
        self._processes = processes
        stock = [
            *(sys.executable, "-m", "dramatiq", f"{module}:broker"),
            *("--processes", str(processes), "--threads", str(threads), "--worker-shutdown-timeout", "15000"),
            *(["--queues", *queues] if queues else []),
        ]
        own = [sys.executable, "-m", "jobkit.cli", "worker", service]
        # Told to stop by the kernel, should the tests themselves be killed.
        setpriv = shutil.which("setpriv") if sys.platform == "linux" else None
        self._command = [*([setpriv, "--pdeathsig", "TERM"] if setpriv else []), *(own if supervised else stock)]
        harness = str(Path(__file__).parent)
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("JOBKIT_", "PROBE_"))},
            "PYTHONPATH": harness,
            "PYTHONUNBUFFERED": "1",
            "PROBE_LEDGER": str(self.ledger.path),
            "PROBE_PROCESSES": str(processes),
            "PROBE_THREADS": str(threads),
            **environment,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, wait: bool = True) -> Self:
        """Start it; with ``wait``, return when all its processes have opened their resources."""
        before = len(self.ledger.entries("open"))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self.log.parent,
            )
        if wait:
            expected = before + self._processes
            self.ledger.wait(
                lambda ledger: not self.alive or len(ledger.entries("open")) >= expected,
                what=f"the start of {self.log}",
            )
            assert self.alive, self.output()
        return self

    @property
    def children(self) -> list[int]:
        """The worker processes, without the one that watches over them, whatever start method Python has."""
        assert self._process is not None
        return [pid for child in children(self._process.pid) for pid in _workers_of(child)]

    @property
    def alive(self) -> bool:
        """Whether the watching process runs."""
        return self._process is not None and self._process.poll() is None

    def signal_all(self, number: signal.Signals, pause: float = 0.0, *, upward: bool = False) -> None:
        """Send a signal to each of its processes, as systemd does to a control group; parents first, or last."""
        assert self._process is not None
        pids = [self._process.pid, *descendants(self._process.pid)]
        for pid in reversed(pids) if upward else pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
            time.sleep(pause)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the watching process."""
        assert self._process is not None
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """Kill -9 all of its processes, as a machine that loses power does."""
        if self._process is not None and self._process.poll() is None:
            for pid in [self._process.pid, *descendants(self._process.pid)]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.wait(10)

    def wait(self, limit: float = 30.0) -> int:
        """The exit status."""
        assert self._process is not None
        return self._process.wait(limit)

    def stop(self, limit: float = 30.0) -> int:
        """SIGTERM, and the exit status."""
        self.signal(signal.SIGTERM)
        return self.wait(limit)

    def output(self) -> str:
        """All that it has logged."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.kill()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        if error is not None:
            print(self.output()[-6000:])  # noqa: T201  pytest shows it with the failure


def _workers_of(pid: int) -> list[int]:
    """A child itself, those of a fork server in its place, and nothing for a resource tracker (multiprocessing)."""
    line = command(pid)
    if "multiprocessing.forkserver" in line:
        return children(pid)
    return [] if "multiprocessing.resource_tracker" in line else [pid]
