"""Whose code it is: the job's own, a library's, or code that no interrupt may enter."""

import os
import sys
import sysconfig
from collections.abc import Callable, Iterable
from enum import Enum
from inspect import unwrap
from pathlib import Path
from types import FrameType
from typing import Final


class Origin(Enum):
    """Where a function comes from."""

    JOB = "job"
    LIBRARY = "library"  #: a third party's
    GUARDED = "guarded"  #: the standard library's or jobkit's, which may hold a lock


#: Folders of installed packages, also where ``sysconfig`` does not name them (Debian's, a virtual environment's base).
_PACKAGES: Final = tuple(f"{os.sep}{name}{os.sep}" for name in ("site-packages", "dist-packages"))

#: How the names of the interpreter's own built-in modules begin.
_FROZEN: Final = "<frozen "


class Origins:
    """Tells origins apart by file names: the innermost folder that is known decides.

    Args:
        own: Folders or files that belong to the job even if they are installed among other packages.

    Attributes:
        known: The origins of the files that were asked for.
    """

    def __init__(self, own: Iterable[str] = ()) -> None:
        standard = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib")} | {os.path.dirname(os.__file__)}  # noqa: PTH120
        self._folders = {os.path.realpath(path): Origin.GUARDED for path in standard if path}
        self._folders[str(Path(__file__).resolve().parents[1])] = Origin.GUARDED
        self._folders |= {os.path.realpath(path): Origin.JOB for path in own}
        self.known: dict[str, Origin] = {}

    def of(self, frame: FrameType) -> Origin:
        """Return the origin of running code. Generated code belongs to its module, else to its caller."""
        current: FrameType | None = frame
        while current is not None:
            name, module = current.f_code.co_filename, current.f_globals.get("__file__")
            if name.startswith("<") and not name.startswith(_FROZEN) and isinstance(module, str):
                name = module
            if not name.startswith("<") or name.startswith(_FROZEN):
                return self.known.get(name) or self._find(name)
            current = current.f_back
        return Origin.JOB

    def _find(self, name: str) -> Origin:
        if name.startswith(_FROZEN):
            found = Origin.GUARDED
        else:
            path, found, depth = os.path.realpath(name), Origin.JOB, 0
            for folder, origin in self._folders.items():
                if len(folder) > depth and (path == folder or path.startswith(folder + os.sep)):
                    found, depth = origin, len(folder)
            if max(path.rfind(part) for part in _PACKAGES) >= max(depth, 1):
                found = Origin.LIBRARY
        self.known[name] = found
        return found


def homes_of(functions: Iterable[Callable[..., object]]) -> set[str]:
    """Return the folders of the top-level packages that ``functions`` come from, or the files of their modules.

    Several distributions may share a namespace package, so the first package below it counts.
    """
    homes: set[str] = set()
    for function in functions:
        name = getattr(unwrap(function), "__module__", None) or type(function).__module__
        parts = name.split(".")
        modules = [sys.modules.get(".".join(parts[: end + 1])) for end in range(len(parts))]
        files = [getattr(module, "__file__", None) for module in modules]
        file = next((path for path in files if path), None)
        if file is not None:
            homes.add(str(Path(file).parent) if Path(file).name == "__init__.py" else file)
    return homes
