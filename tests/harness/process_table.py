"""The machine's processes: from proc(5) on Linux, elsewhere from ps(1)."""

import subprocess
import sys
from contextlib import suppress
from pathlib import Path


def pids() -> list[int]:
    """All processes."""
    if sys.platform == "linux":
        return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [int(line) for line in _ps("-axo", "pid=")]


def children(pid: int) -> list[int]:
    """The processes that one has started, and that live."""
    if sys.platform != "linux":
        pairs = (line.split() for line in _ps("-axo", "pid=,ppid="))
        return [int(child) for child, parent in pairs if int(parent) == pid]
    found = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):  # of each thread
        with suppress(OSError):  # it has ended meanwhile
            found += [int(child) for child in file.read_text().split()]
    return found


def descendants(pid: int) -> list[int]:
    """All processes below one."""
    found = children(pid)
    return [*found, *(below for child in found for below in descendants(child))]


def command(pid: int) -> str:
    """The command line of a process; empty for one that has ended, or that is somebody else's."""
    if sys.platform != "linux":
        return "".join(_ps("-ww", "-o", "command=", "-p", str(pid))).strip()
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def mentions(pid: int, folder: Path) -> bool:
    """Whether a process has a folder in its arguments, in its variables or as its working directory.

    Elsewhere than on Linux only arguments and variables can be seen.
    """
    if sys.platform != "linux":
        return str(folder) in "".join(_ps("-wwE", "-o", "command=", "-p", str(pid)))
    place = Path(f"/proc/{pid}")
    try:
        known = (place / "cmdline").read_bytes() + (place / "environ").read_bytes()
        return str(folder).encode() in known or (place / "cwd").readlink().is_relative_to(folder)
    except OSError:
        return False


def _ps(*arguments: str) -> list[str]:
    done = subprocess.run(["ps", *arguments], capture_output=True, text=True, check=False, timeout=10)
    return done.stdout.splitlines()
