"""What all nodes have in common: start, readiness, stop, kill, restart."""

import atexit
import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from local_stack.errors import NodeFailed
from local_stack.ports import free_ports, require_free
from local_stack.process import POLL_SECONDS, Process

LOG_TAIL_LINES = 60  #: Erlang writes some 45 lines after the one that holds the reason.


class Node(ABC):
    """One backing service as a private process, with all its files in one folder and bound to the loopback interface.

    A node can be started again after `stop` or `kill`: it keeps its data, its ports and its address. As a context
    manager it runs within the block. Every wait is bounded, and a node never outlives its owner unless ``detached``
    (see `Process.spawn` for the one rule about threads).

    Args:
        data: folder for all files, the log among them.
        ports: a port for each purpose of the node; a free one where there is None.
        detached: outlive this process.
    """

    title: str  #: as a person calls it, for messages
    start_seconds = 60.0  #: A cold start takes a few seconds; a loaded machine gets ten times that.
    stop_seconds = 15.0  #: For the gentle end; then comes the other.
    stop_signal = signal.SIGTERM

    def __init__(self, data: Path, ports: Mapping[str, int | None], *, detached: bool) -> None:
        self.data = data.resolve()
        self.detached = detached
        drawn = free_ports(len(ports))
        self.ports = {purpose: port or free for (purpose, port), free in zip(ports.items(), drawn, strict=True)}
        self.processes: tuple[Process, ...] = ()  #: The server, then its companions.

    @property
    @abstractmethod
    def url(self) -> str:
        """The address for clients, with credentials."""

    @property
    def log(self) -> Path:
        """The file with all that the node says."""
        return self.data / "node.log"

    @property
    def running(self) -> bool:
        """Whether the server's process exists; it may not answer yet."""
        return bool(self.processes) and self.processes[0].alive

    def launch(self) -> None:
        """Start the process and return at once; `wait` until it answers. Several nodes can come up side by side so.

        Raises:
            MissingPackages: the server is not installed.
            PortTaken: something else listens on one of its ports.
        """
        for purpose, port in self.ports.items():
            require_free(port, f"{self.title} ({purpose})")
        self.data.mkdir(parents=True, exist_ok=True)
        self.processes = self._spawn()
        if not self.detached:
            for process in self.processes:
                atexit.register(_end_with, os.getpid(), process)  # for systems whose kernel does not see to it

    @abstractmethod
    def _spawn(self) -> tuple[Process, ...]:
        """Start the processes, the server first in the answer."""

    @abstractmethod
    def answers(self) -> bool:
        """Tell, within a few seconds at most, whether the node serves clients."""

    def wait(self) -> None:
        """Wait until the node answers.

        Raises:
            NodeFailed: it ended, or `start_seconds` passed.
        """
        deadline = time.monotonic() + self.start_seconds
        while not self.answers():
            if not self.running:
                raise NodeFailed(f"{self.title} ended while it started. {self._log_tail()}")
            if time.monotonic() > deadline:
                self.kill()
                raise NodeFailed(f"{self.title} did not answer within {self.start_seconds:g} s. {self._log_tail()}")
            time.sleep(POLL_SECONDS)

    def start(self) -> None:
        """Start the node and wait until it answers; do nothing if it runs."""
        if not self.running:
            self.kill()  # a companion that is left
            self.launch()
        self.wait()

    def stop(self) -> None:
        """End the node gently, by force after `stop_seconds`."""
        if self.running:
            self.processes[0].signal(signal.SIGCONT)  # a paused process would not hear the next signal
            self.processes[0].stop(self.stop_seconds, self.stop_signal)
        self.kill()

    def kill(self) -> None:
        """End the node as a power cut would (SIGKILL), but for the disk's own cache."""
        for process in self.processes:
            process.kill()

    def restart(self) -> None:
        """Stop the node gently and start it again on the same ports and data."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze the server (SIGSTOP): connections stay open and nothing answers, as with a hung machine."""
        self.processes[0].freeze()

    def resume(self) -> None:
        """Let a paused server go on."""
        self.processes[0].signal(signal.SIGCONT)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _log_tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return f"The end of {self.log}:\n" + "\n".join(lines[-LOG_TAIL_LINES:])


def _end_with(owner: int, process: Process) -> None:
    """Kill a process, unless this is a fork of its owner that ends: a worker process is one."""
    if os.getpid() == owner:
        process.kill()
