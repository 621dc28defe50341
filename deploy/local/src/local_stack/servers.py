"""The servers, and where the systems' packages keep them."""

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

Service = Literal["rabbitmq", "redis", "postgres", "faketime"]  #: The last one serves `make chaos` alone.

SERVERS: tuple[Service, ...] = ("rabbitmq", "redis", "postgres")  #: What `make up` and `make test` need.

#: For where no package manager says what its packages are called.
NAMES: Mapping[Service, str] = {
    "rabbitmq": "RabbitMQ",
    "redis": "Redis",
    "postgres": "PostgreSQL",
    "faketime": "libfaketime",
}

LIBRARIES = Path("/usr/lib")  #: Where Linux distributions keep servers that are not for the path.
HOMEBREW = (Path("/opt/homebrew"), Path("/usr/local"))  #: On Apple's processors, and on Intel's.

_FAKETIME = ("libfaketimeMT.so.1", "libfaketimeMT.1.dylib")  # MT: for programs with threads


def path() -> str:
    """Return where programs are looked for: on macOS also where Homebrew links them, though a shell may not say so."""
    known = os.environ.get("PATH", os.defpath)
    if sys.platform != "darwin":
        return known
    return os.pathsep.join([known, *(str(prefix / "bin") for prefix in HOMEBREW)])


def find(service: Service) -> Path | None:
    """Return the program that is the server, or the library that is preloaded; None if it is not installed."""
    finders: Mapping[Service, Callable[[], Path | None]] = {
        "rabbitmq": _rabbitmq,
        "redis": lambda: _on_path("redis-server"),
        "postgres": _postgres,
        "faketime": _faketime,
    }
    return finders[service]()


def _on_path(name: str) -> Path | None:
    found = shutil.which(name, path=path())
    return Path(found) if found else None


def _homebrew(formula: str) -> list[Path]:
    """Return the folders of a formula, also of one that is not linked into the path."""
    return [folder for prefix in HOMEBREW for folder in sorted((prefix / "opt").glob(formula))]


def _rabbitmq() -> Path | None:
    """Return RabbitMQ's own script: the one on the path may be a wrapper that changes to another user."""
    libraries = sorted((LIBRARIES / "rabbitmq/lib").glob("rabbitmq_server-*/sbin"), reverse=True)
    folders = [LIBRARIES / "rabbitmq/bin", *libraries, Path("/opt/rabbitmq/sbin")]
    folders += [folder / "sbin" for folder in _homebrew("rabbitmq")]
    if on_path := _on_path("rabbitmq-server"):
        folders.append(on_path.resolve().parent)
    return next((folder / "rabbitmq-server" for folder in folders if (folder / "rabbitmq-server").is_file()), None)


def _postgres() -> Path | None:
    """Return the newest server: Debian keeps one for each major version, none of them on the path."""
    folders = [*(LIBRARIES / "postgresql").glob("*/bin"), *(each / "bin" for each in _homebrew("postgresql@*"))]
    versions = {int(folder.parent.name.rpartition("@")[2]): folder for folder in folders}
    for _, folder in sorted(versions.items(), reverse=True):
        if (folder / "postgres").is_file():
            return folder / "postgres"
    return _on_path("postgres")


def _faketime() -> Path | None:
    """Return the library, which distributions keep in different folders."""
    folders = [*LIBRARIES.glob("*/faketime"), LIBRARIES / "faketime", Path("/usr/lib64/faketime")]
    folders += [folder / "lib/faketime" for folder in _homebrew("libfaketime")]
    libraries = (folder / name for folder in folders for name in _FAKETIME)
    return next((library for library in libraries if library.is_file()), None)
