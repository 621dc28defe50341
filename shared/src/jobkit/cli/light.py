"""Loading libraries without the parts of them that workers do not use.

structlog imports rich, for tracebacks in colour. redis-py imports its client for asyncio, and the SDK of OpenTelemetry
for the annotation of one variable. Together they are a tenth of what a worker imports, and each worker process pays for
it. Whoever needs one of them imports it as usual; only structlog's own use of rich is off.

Only ``jobkit worker`` and ``jobkit scheduler`` load them like that: in the process of somebody else, other modules may
count on them.
"""

import importlib
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

#: What is imported, and what of it is missing at that moment. Each copes with that, as the packages are optional.
_LEFT_OUT = {"structlog": "rich", "redis": "opentelemetry.sdk.metrics"}

#: A package that is imported, but whose code runs at its first use.
_PUT_OFF = "redis.asyncio"


def load() -> None:
    """Load them; what has been imported already stays as it is."""
    with _put_off(_PUT_OFF):
        for name, left_out in _LEFT_OUT.items():
            with _missing(left_out):
                importlib.import_module(name)


@contextmanager
def _missing(name: str) -> Iterator[None]:
    """Let an import of ``name`` fail within the block."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # which is how Python is told that there is no such module
    try:
        yield
    finally:
        del sys.modules[name]


@contextmanager
def _put_off(name: str) -> Iterator[None]:
    """Let an import of the package ``name`` within the block run its code at its first use."""
    finder = _PuttingOff(name)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _PuttingOff(MetaPathFinder):
    """Finds one package, whose code then runs at its first use.

    ``importlib.util.LazyLoader`` cannot do that: to import a module of the package counts as its use.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname == self._name else None
        if spec is not None and spec.loader is not None:
            spec.loader = _AtFirstUse(spec.loader)
        return spec


class _AtFirstUse(Loader):
    """Runs the code of a module when somebody asks for a name that the empty module does not have."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._lock = threading.RLock()
        self._begun = False

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        def look_up(name: str) -> object:
            with self._lock:
                if not self._begun:
                    self._begun = True
                    self._loader.exec_module(module)
                if name in vars(module):
                    return vars(module)[name]
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")

        vars(module)["__getattr__"] = look_up
