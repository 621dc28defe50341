"""A child process with everything it starts, and the promise that it ends."""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

POLL_SECONDS = 0.02  #: Short against every start and stop here, long enough to cost no processor time.
KILL_SECONDS = 10.0  #: The kernel needs milliseconds; a disk that hangs may hold a process longer.

_PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """A process, known by its id and the moment it started, since ids are used again."""

    pid: int
    started: str

    @classmethod
    def spawn(
        cls,
        command: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        user: str | None = None,
        inherit: Sequence[int] = (),
        detached: bool = False,
    ) -> Self:
        """Start a command in a session of its own, its output appended to ``log``.

        Args:
            command: the program, which must not fork into the background, and its arguments.
            log: the file that receives standard output and standard error.
            environment: all of the child's variables; ours by default.
            folder: the child's working directory.
            user: the name of the user to become, with that user's first group and no other.
            inherit: file descriptors that the child keeps.
            detached: outlive this process. Otherwise the kernel kills the child when we end, however we end
                (``PR_SET_PDEATHSIG``, see prctl(2); Linux only). The kernel means the *thread* that started the child:
                start nodes from a thread that lives as long as they should.
        """
        setpriv = shutil.which("setpriv") if sys.platform == "linux" and not detached else None
        # A program that sets the signal and then becomes the command, because Python's own preexec_fn is unsafe
        # as soon as there are threads. The setting survives exec.
        guard = [setpriv, "--pdeathsig", "KILL"] if setpriv else []
        with log.open("ab") as output:
            child = subprocess.Popen(  # noqa: S603  the commands are this package's own
                [*guard, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=folder,
                start_new_session=True,
                pass_fds=inherit,
                user=user,
                group=None if user is None else pwd.getpwnam(user).pw_gid,
                extra_groups=None if user is None else [],
            )
        child.returncode = 0  # This class waits for the child; Popen's destructor need not warn that nobody has.
        return cls(child.pid, _started(child.pid))

    @property
    def alive(self) -> bool:
        """Whether the process still runs. A child of ours that has ended is reaped."""
        try:
            return os.waitpid(self.pid, os.WNOHANG)[0] != self.pid
        except ChildProcessError:  # reaped before, or not our child because an earlier `make up` started it
            return self.started != "" and _started(self.pid) == self.started

    def stop(self, seconds: float, gentle: signal.Signals = signal.SIGTERM) -> None:
        """Ask the process to end, and kill it with all its descendants if it takes longer than ``seconds``."""
        self.signal(gentle)
        if not self.wait(seconds):
            self.kill()

    def kill(self) -> None:
        """End the process and its descendants with SIGKILL, now, and wait until the kernel has done so."""
        if not self.alive:
            return
        family = [self, *self._descendants()]
        for member in family:
            member.signal(signal.SIGKILL)
        for member in family:
            member.wait(KILL_SECONDS)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; to a process that has ended, do nothing."""
        if self.alive:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def freeze(self) -> None:
        """Stop the process (SIGSTOP) until it gets SIGCONT, and wait until none of its threads runs any more."""
        self.signal(signal.SIGSTOP)
        if sys.platform != "linux":
            return
        deadline = time.monotonic() + KILL_SECONDS
        with suppress(ChildProcessError):  # it is not our child, because an earlier `make up` started it
            while not os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT | os.WNOHANG):
                if time.monotonic() > deadline:
                    break
                time.sleep(POLL_SECONDS)

    def wait(self, seconds: float) -> bool:
        """Wait at most ``seconds`` for the process to end; True if it has."""
        deadline = time.monotonic() + seconds
        while self.alive:
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_SECONDS)
        return True

    def _descendants(self) -> list["Process"]:
        """Return children, grandchildren and so on. Servers put theirs into other sessions, out of killpg's reach."""
        children: dict[int, list[int]] = {}
        for pid, parent in _parents():
            children.setdefault(parent, []).append(pid)
        found: list[Process] = []
        waiting = [self.pid]
        while waiting:
            pids = children.get(waiting.pop(), [])
            found += [Process(pid, _started(pid)) for pid in pids]
            waiting += pids
        return found


def _parents() -> list[tuple[int, int]]:
    if not (_PROC / "self/stat").exists():
        return [(int(pid), int(parent)) for pid, parent in (line.split() for line in _ps("-axo", "pid=,ppid="))]
    pids = [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()]
    return [(pid, int(fields[1])) for pid in pids if (fields := _stat(pid))]


def _started(pid: int) -> str:
    """Return when a process started, in a form that only compares; empty for one that is gone or a zombie."""
    if not (_PROC / "self/stat").exists():
        state, _, moment = "".join(_ps("-o", "state=,lstart=", "-p", str(pid))).strip().partition(" ")
        return "" if state.startswith("Z") else moment.strip()
    fields = _stat(pid)
    # A leader that is a zombie while its threads still end holds its ports: it is not gone yet.
    return "" if not fields or (fields[0] in "ZX" and fields[17] == "1") else fields[19]


def _stat(pid: int) -> list[str]:
    """Return the fields of proc(5) ``stat`` from the third on: state, ppid, … num_threads at 17, starttime at 19."""
    try:
        # The second field, the name in parentheses, may hold anything.
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _ps(*arguments: str) -> list[str]:
    done = subprocess.run(["/bin/ps", *arguments], capture_output=True, text=True, check=False, timeout=10)  # noqa: S603  a fixed command
    return done.stdout.splitlines()
