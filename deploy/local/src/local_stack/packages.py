"""The system's packages that hold the servers: found, installed as root, otherwise asked for with one command."""

import fcntl
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from local_stack.errors import MissingPackages
from local_stack.servers import NAMES, Service, find

INSTALL_SECONDS = 900  #: Erlang alone is some 40 packages, and a slow mirror needs minutes.
POLL_SECONDS = 0.2  #: Between two tries to get the lock, which is held for minutes.

#: Debian starts a server as soon as it is installed unless this file says no (invoke-rc.d(8), exit status 101).
POLICY = Path("/usr/sbin/policy-rc.d")

Run = Callable[[Sequence[str]], int]  #: Runs a command and returns its exit status. Tests bring their own.
Say = Callable[[str], object]


@dataclass(frozen=True)
class PackageManager:
    """How one family of systems installs the servers."""

    program: str
    install: tuple[str, ...]
    packages: Mapping[Service, str]
    refresh: tuple[str, ...] | None = None
    needs_root: bool = True


APT = PackageManager(
    "apt-get",
    # Another package manager may be at work: the system's own nightly one, for example.
    ("apt-get", "install", "-y", "-qq", "-o", "DPkg::Lock::Timeout=600", "--no-install-recommends"),
    {"rabbitmq": "rabbitmq-server", "redis": "redis-server", "postgres": "postgresql", "faketime": "faketime"},
    refresh=("apt-get", "update", "-qq"),
)
DNF = PackageManager(
    "dnf",
    ("dnf", "install", "-y"),
    {"rabbitmq": "rabbitmq-server", "redis": "redis", "postgres": "postgresql-server", "faketime": "libfaketime"},
)
APK = PackageManager(
    "apk",
    ("apk", "add"),
    {"rabbitmq": "rabbitmq-server", "redis": "redis", "postgres": "postgresql", "faketime": "libfaketime"},
)
BREW = PackageManager(
    "brew",
    ("brew", "install"),
    {"rabbitmq": "rabbitmq", "redis": "redis", "postgres": "postgresql@17", "faketime": "libfaketime"},
    needs_root=False,
)


def missing(services: Collection[Service], manager: PackageManager | None = None) -> MissingPackages:
    """Return the error that asks a person to install ``services``, with the one command that does it."""
    manager = manager or _manager()
    if manager is None:
        lacking = _are_not_installed([NAMES[service] for service in services])
        if sys.platform == "darwin":
            command = " ".join((*BREW.install, *(BREW.packages[service] for service in services)))
            return MissingPackages(f"{lacking}, and neither is Homebrew: install it, then run: {command}")
        known = ", ".join(each.program for each in _managers())
        return MissingPackages(f"{lacking}, and there is no {known}: install by hand, or install Docker")
    names = [manager.packages[service] for service in services]
    steps = [*([manager.refresh] if manager.refresh else []), (*manager.install, *names)]
    command = " && ".join(" ".join(step) for step in steps)
    who = "run as root" if manager.needs_root else "run"
    return MissingPackages(f"{_are_not_installed(names)}; {who}: {command}")


def ensure(
    services: Collection[Service],
    *,
    installed: Callable[[Service], Path | None] = find,
    run: Run | None = None,
    root: bool | None = None,
    manager: PackageManager | None = None,
    say: Say | None = None,
) -> None:
    """Install what is missing of ``services``, if we are root (or, with Homebrew, if we are not).

    Processes that ask at the same time take turns, so that one installs and the others find it done. ``say`` is told
    what is installed, before it is and only if it may be.

    Raises:
        MissingPackages: something is missing and may not, or could not, be installed.
    """
    if all(installed(service) for service in services):
        return
    run = run or _run
    manager = manager or _manager()
    root = os.geteuid() == 0 if root is None else root
    if manager is None or root is not manager.needs_root:  # Homebrew refuses to run as root
        raise missing([service for service in services if installed(service) is None], manager)
    with _one_at_a_time(manager):
        absent = [service for service in services if installed(service) is None]
        if not absent:
            return
        names = [manager.packages[service] for service in absent]
        if say is not None:
            say(f"installing {_listed(names)} with {manager.program}; that can take minutes")
        if manager.refresh:
            run(manager.refresh)  # an old list often still serves; if not, the next command fails
        command = [*manager.install, *names]
        status = _install_without_starting(command, run) if manager.program == "apt-get" else run(command)
        still = [service for service in absent if installed(service) is None]
    if status != 0 or still:
        raise missing(still or absent, manager)


@contextmanager
def _one_at_a_time(manager: PackageManager) -> Iterator[None]:
    """Hold a lock of this machine: package managers refuse to run twice at a time.

    It lies on the manager's own program, which every process finds and none has to make.
    """
    program = shutil.which(manager.program)
    if program is None:
        yield
        return
    deadline = time.monotonic() + INSTALL_SECONDS
    with Path(program).open("rb") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise MissingPackages(
                        f"another process has been installing with {manager.program} for {INSTALL_SECONDS} s: "
                        "end it and try again"
                    ) from None
                time.sleep(POLL_SECONDS)
        yield


def _are_not_installed(names: Sequence[str]) -> str:
    return f"{_listed(names)} {'is' if len(names) == 1 else 'are'} not installed"


def _listed(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def _install_without_starting(command: Sequence[str], run: Run) -> int:
    """Install with Debian's tools and leave no server running beside ours; a policy of the machine's own stays."""
    ours = not POLICY.exists()
    if ours:
        POLICY.write_text("#!/bin/sh\nexit 101\n")
        POLICY.chmod(0o755)
    try:
        return run(["env", "DEBIAN_FRONTEND=noninteractive", *command])
    finally:
        if ours:
            POLICY.unlink(missing_ok=True)


def _run(command: Sequence[str]) -> int:
    try:
        done = subprocess.run(  # noqa: S603  one of the commands above
            command, stdin=subprocess.DEVNULL, timeout=INSTALL_SECONDS, check=False
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return 127
    return done.returncode


def _managers() -> tuple[PackageManager, ...]:
    return (BREW,) if sys.platform == "darwin" else (APT, DNF, APK)


def _manager() -> PackageManager | None:
    return next((manager for manager in _managers() if shutil.which(manager.program)), None)
