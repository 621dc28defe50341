"""The system's packages that hold the servers: found, installed where that is allowed, asked for where it is not."""

import os
import shutil
import subprocess
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from local_stack.errors import MissingPackages

Service = Literal["rabbitmq", "redis", "postgres", "faketime"]  #: The last one serves tests alone.

INSTALL_SECONDS = 900  #: Erlang alone is some 40 packages, and a slow mirror needs minutes.

#: Debian starts a server as soon as it is installed unless this file says no (invoke-rc.d(8), exit status 101).
POLICY = Path("/usr/sbin/policy-rc.d")

#: For where no package manager says what its packages are called.
NAMES: Mapping[Service, str] = {
    "rabbitmq": "RabbitMQ",
    "redis": "Redis",
    "postgres": "PostgreSQL",
    "faketime": "libfaketime",
}

_FAKETIME = "libfaketimeMT.so.1"  # MT: for programs with threads

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


MANAGERS = (
    PackageManager(
        "apt-get",
        ("apt-get", "install", "-y", "-qq", "--no-install-recommends"),
        {"rabbitmq": "rabbitmq-server", "redis": "redis-server", "postgres": "postgresql", "faketime": "faketime"},
        refresh=("apt-get", "update", "-qq"),
    ),
    PackageManager(
        "dnf",
        ("dnf", "install", "-y"),
        {"rabbitmq": "rabbitmq-server", "redis": "redis", "postgres": "postgresql-server", "faketime": "libfaketime"},
    ),
    PackageManager(
        "apk",
        ("apk", "add"),
        {"rabbitmq": "rabbitmq-server", "redis": "redis", "postgres": "postgresql", "faketime": "libfaketime"},
    ),
    PackageManager(
        "brew",
        ("brew", "install"),
        {"rabbitmq": "rabbitmq", "redis": "redis", "postgres": "postgresql@17", "faketime": "libfaketime"},
        needs_root=False,
    ),
)


def server(service: Service) -> Path | None:
    """Return the program that is the server, or the library that is preloaded; None if it is not installed."""
    find: Mapping[Service, Callable[[], Path | None]] = {
        "rabbitmq": _rabbitmq,
        "redis": lambda: _on_path("redis-server"),
        "postgres": _postgres,
        "faketime": _faketime,
    }
    return find[service]()


def missing(services: Collection[Service], manager: PackageManager | None = None) -> MissingPackages:
    """Return the error that asks a person to install ``services``, with the one command that does it."""
    manager = manager or _manager()
    if manager is None:
        return MissingPackages(
            f"{_are_not_installed([NAMES[service] for service in services])}, and none of "
            f"{', '.join(each.program for each in MANAGERS)} is here to do it: install by hand, or install Docker"
        )
    sudo = "sudo " if manager.needs_root and os.geteuid() != 0 else ""
    steps = [manager.refresh] if manager.refresh else []
    names = [manager.packages[service] for service in services]
    steps.append((*manager.install, *names))
    command = " && ".join(sudo + " ".join(step) for step in steps)
    return MissingPackages(f"{_are_not_installed(names)}; run: {command}")


def ensure(
    services: Collection[Service],
    *,
    installed: Callable[[Service], Path | None] = server,
    run: Run | None = None,
    root: bool | None = None,
    manager: PackageManager | None = None,
    say: Say | None = None,
) -> None:
    """Install what is missing of ``services``, as root or through a sudo that asks for no password.

    ``say`` is told what is installed, before it is and only if it may be.

    Raises:
        MissingPackages: something is missing and may not, or could not, be installed.
    """
    absent = [service for service in services if installed(service) is None]
    if not absent:
        return
    run = run or _run
    manager = manager or _manager()
    if manager is None:
        raise missing(absent)
    prefix = _privilege(manager, run, root=os.geteuid() == 0 if root is None else root)
    if prefix is None:
        raise missing(absent, manager)
    names = [manager.packages[service] for service in absent]
    if say is not None:
        say(f"installing {_listed(names)} with {manager.program}; that can take minutes")
    if manager.refresh:
        run([*prefix, *manager.refresh])  # a stale list often still does; if not, the next step says so
    if manager.program == "apt-get":
        status = _install_without_starting(prefix, [*manager.install, *names], run)
    else:
        status = run([*prefix, *manager.install, *names])
    still = [service for service in absent if installed(service) is None]
    if status != 0 or still:
        raise missing(still or absent, manager)


def _are_not_installed(names: Sequence[str]) -> str:
    return f"{_listed(names)} {'is' if len(names) == 1 else 'are'} not installed"


def _listed(names: Sequence[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def _privilege(manager: PackageManager, run: Run, *, root: bool) -> list[str] | None:
    """Return what to put before the manager's commands, or None if they are not allowed."""
    if not manager.needs_root:
        return None if root else []  # Homebrew refuses to run as root
    if root:
        return []
    return ["sudo", "-n"] if run(["sudo", "-n", "true"]) == 0 else None


def _install_without_starting(prefix: Sequence[str], command: Sequence[str], run: Run) -> int:
    """Install with Debian's tools and leave no server running beside ours; a policy of the machine's own stays."""
    environment = ["env", "DEBIAN_FRONTEND=noninteractive"]
    ours = not POLICY.exists()
    if ours:
        run([*prefix, "sh", "-c", f"printf '#!/bin/sh\\nexit 101\\n' > {POLICY} && chmod 755 {POLICY}"])
    try:
        return run([*prefix, *environment, *command])
    finally:
        if ours:
            run([*prefix, "rm", "-f", str(POLICY)])


def _run(command: Sequence[str]) -> int:
    try:
        done = subprocess.run(  # noqa: S603  one of the commands above
            command, stdin=subprocess.DEVNULL, timeout=INSTALL_SECONDS, check=False
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return 127
    return done.returncode


def _manager() -> PackageManager | None:
    return next((manager for manager in MANAGERS if shutil.which(manager.program)), None)


def _on_path(name: str) -> Path | None:
    found = shutil.which(name)
    return Path(found) if found else None


def _rabbitmq() -> Path | None:
    """Return RabbitMQ's own script: the one on the path may be a wrapper that changes to another user."""
    libraries = sorted(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin"), reverse=True)
    folders = [Path("/usr/lib/rabbitmq/bin"), *libraries, Path("/opt/rabbitmq/sbin")]
    if on_path := _on_path("rabbitmq-server"):
        folders.append(on_path.resolve().parent)
    return next((folder / "rabbitmq-server" for folder in folders if (folder / "rabbitmq-server").is_file()), None)


def _postgres() -> Path | None:
    """Return the newest server: Debian keeps one for each major version, none of them on the path."""
    folders = [*Path("/usr/lib/postgresql").glob("*/bin"), *Path("/opt/homebrew/opt").glob("postgresql@*/bin")]
    versions = {int(folder.parent.name.rpartition("@")[2]): folder for folder in folders}
    for _, folder in sorted(versions.items(), reverse=True):
        if (folder / "postgres").is_file():
            return folder / "postgres"
    return _on_path("postgres")


def _faketime() -> Path | None:
    """Return the library, which distributions keep in different folders."""
    folders = [*Path("/usr/lib").glob("*/faketime"), Path("/usr/lib/faketime"), Path("/usr/lib64/faketime")]
    return next((folder / _FAKETIME for folder in folders if (folder / _FAKETIME).is_file()), None)
