"""A time of day that can be moved while processes run under it; monotonic clocks go on as they do."""

import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from local_stack import packages, servers

SHARED_MEMORY = Path("/dev/shm")


class Clock:
    """What libfaketime shows to the processes that are started with its ``environment``.

    Args:
        file: holds the distance from the true time.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.move(0)

    def move(self, seconds: float) -> None:
        """Show the true time and so many seconds, within two seconds from now."""
        unfinished = self._file.with_suffix(".part")
        unfinished.write_text(f"{seconds:+}\n")
        unfinished.replace(self._file)

    @property
    def environment(self) -> dict[str, str]:
        """Variables for processes; raises ``MissingPackages`` if libfaketime is not installed."""
        library = servers.find("faketime")
        if library is None:
            raise packages.missing(["faketime"])
        if sys.platform == "darwin":
            preload = {"DYLD_INSERT_LIBRARIES": str(library), "DYLD_FORCE_FLAT_NAMESPACE": "1"}
        else:
            # The C library's malloc before Redis's own, which asks for the time before libfaketime can tell it.
            preload = {"LD_PRELOAD": f"{library}:libc.so.6"}
        return {
            **preload,
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove what libfaketime leaves behind when its process has ended."""
        for leftover in SHARED_MEMORY.glob("*faketime_s*m_*"):
            if not Path("/proc", leftover.name.rpartition("_")[2]).exists():
                leftover.unlink(missing_ok=True)
