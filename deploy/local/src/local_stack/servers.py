"""The servers, and where the systems' packages keep them."""

import shutil
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

_FAKETIME = ("libfaketimeMT.so.1", "libfaketimeMT.1.dylib")  # MT: for programs with threads


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
    found = shutil.which(name)
    return Path(found) if found else None


def _homebrew(formula: str) -> list[Path]:
    """Return the folders of a formula, also one that is not on the path: of Apple's and of Intel's processors."""
    prefixes = (Path("/opt/homebrew/opt"), Path("/usr/local/opt"))
    return [folder for prefix in prefixes for folder in sorted(prefix.glob(formula))]


def _rabbitmq() -> Path | None:
    """Return RabbitMQ's own script: the one on the path may be a wrapper that changes to another user."""
    libraries = sorted(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin"), reverse=True)
    folders = [Path("/usr/lib/rabbitmq/bin"), *libraries, Path("/opt/rabbitmq/sbin")]
    folders += [folder / "sbin" for folder in _homebrew("rabbitmq")]
    if on_path := _on_path("rabbitmq-server"):
        folders.append(on_path.resolve().parent)
    return next((folder / "rabbitmq-server" for folder in folders if (folder / "rabbitmq-server").is_file()), None)


def _postgres() -> Path | None:
    """Return the newest server: Debian keeps one for each major version, none of them on the path."""
    folders = [*Path("/usr/lib/postgresql").glob("*/bin"), *(each / "bin" for each in _homebrew("postgresql@*"))]
    versions = {int(folder.parent.name.rpartition("@")[2]): folder for folder in folders}
    for _, folder in sorted(versions.items(), reverse=True):
        if (folder / "postgres").is_file():
            return folder / "postgres"
    return _on_path("postgres")


def _faketime() -> Path | None:
    """Return the library, which distributions keep in different folders."""
    folders = [*Path("/usr/lib").glob("*/faketime"), Path("/usr/lib/faketime"), Path("/usr/lib64/faketime")]
    folders += [folder / "lib/faketime" for folder in _homebrew("libfaketime")]
    libraries = (folder / name for folder in folders for name in _FAKETIME)
    return next((library for library in libraries if library.is_file()), None)
