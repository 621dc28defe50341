"""The demo's own folder, emptied at each start and held by one demo at a time."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from board import Unexpected

LOCK = "demo.lock"  #: Also tells a folder of the demo's from one that must not be emptied.


@contextmanager
def emptied(folder: Path) -> Iterator[Path]:
    """Make the folder, or empty it, and keep other demos out of it.

    Raises:
        Unexpected: it holds something else, or another demo is at work in it.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / LOCK).exists():
        raise Unexpected(f"{folder} holds files that are not the demo's: name another with --folder")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Unexpected(f"another demo is at work in {folder}: wait for it, or name another folder") from None
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()
        yield folder


def shown(path: Path) -> str:
    """The path as a person in the current folder types it."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
