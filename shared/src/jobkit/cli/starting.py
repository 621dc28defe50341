"""How a supervisor starts its worker processes: by fork where that is safe, else as commands of their own.

A fork shares the memory of all that was imported before, and takes milliseconds. It copies one thread, so whatever has
started others by then would be broken in the child: some libraries start a pool of threads when they are imported.
"""

import gc
import importlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Final, Protocol

from jobkit import process
from jobkit.cli.worker_process import Work, leave
from jobkit.middleware.signals import SUPERVISED
from jobkit.process import Begun, Identity, shared_memory, size_for

#: The signals that a supervisor has handlers for, which a child must not run.
TAKEN: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)

#: The environment variable in which a command of its own finds what a fork is simply given.
GIVEN: Final = "_JOBKIT_WORKER"

log = logging.getLogger(__name__)


class Running(Protocol):
    """A process that was started."""

    pid: int

    def poll(self) -> int | None:
        """Return its exit status, negative after a signal; None while it runs."""


class Starts(Protocol):
    """Starts worker processes."""

    def __call__(self) -> tuple[Running, Identity]:
        """Start one, and return it with the name under which it works; raises ``OSError``."""


@dataclass
class Forked:
    """A child without a command of its own."""

    pid: int
    status: int | None = None

    def poll(self) -> int | None:
        """Return its exit status; None while it runs."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status


class Fork:
    """Starts worker processes as forks of this one, which must have one thread.

    Args:
        work: What they do.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._lifeline = os.pipe()
        if sys.version_info < (3, 12):
            # What the imports have looked up holds references to names. A child that looks up something else would
            # give them back, one by one, and write to the memory of each name. Later versions count no such references.
            sys._clear_type_cache()
        gc.collect()
        gc.freeze()  # what is there now stays shared: the collector does not write to it in the children

    def __call__(self) -> tuple[Running, Identity]:
        """Fork one."""
        identity = Identity(begun=Begun(shared_memory(self._work.threads)))
        sys.stdout.flush()
        sys.stderr.flush()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, TAKEN)
        try:
            pid = os.fork()
            if pid == 0:
                leave(lambda: self._become(identity, mask))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return Forked(pid), identity

    def _become(self, identity: Identity, mask: Collection[int]) -> None:
        """What the child does first."""
        signal.set_wakeup_fd(-1)
        for number in TAKEN:
            signal.signal(number, signal.SIG_DFL)
        os.setsid()  # what the terminal sends to all comes from the supervisor, once
        reading, writing = self._lifeline
        os.close(writing)
        os.environ[SUPERVISED] = "1"
        process.give(identity)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        self._work.run(reading)


class Spawn:
    """Starts worker processes as commands of their own, which share no memory with this one but for what has begun.

    Args:
        work: What they do.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._lifeline = os.pipe()

    def __call__(self) -> tuple[Running, Identity]:
        """Start one."""
        with tempfile.TemporaryFile() as file:
            file.truncate(size_for(self._work.threads))
            identity = Identity(begun=Begun(shared_memory(self._work.threads, file.fileno())))
            reading, _ = self._lifeline
            given = {"work": asdict(self._work), "name": identity.name, "begun": file.fileno(), "lifeline": reading}
            child = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    "from jobkit.cli.light import load; load(); from jobkit.cli.starting import spawned; spawned()",
                ],
                start_new_session=True,
                env={**os.environ, SUPERVISED: "1", GIVEN: json.dumps(given)},
                pass_fds=[reading, file.fileno()],
            )
        return child, identity


def spawned() -> None:
    """What a command of its own does."""
    given = json.loads(os.environ.pop(GIVEN))
    work = Work(**{**given["work"], "queues": tuple(given["work"]["queues"])})
    memory = shared_memory(work.threads, given["begun"])
    os.close(given["begun"])
    process.give(Identity(given["name"], Begun(memory)))
    leave(lambda: work.run(given["lifeline"]))


def starts(work: Work, *, preloads: bool) -> Starts:
    """Return how worker processes are started on this machine.

    Args:
        work: What they do.
        preloads: Whether the service may be imported here, once for all of them.

    Raises:
        ImportError: The service cannot be imported.
    """
    if sys.platform == "darwin":  # where the system's own libraries do not survive a fork
        return Spawn(work)
    culprit = preload(work.module) if preloads else ""
    if native_threads() == 1:
        return Fork(work)
    log.warning(
        "%s starts threads when it is imported, so each worker process imports everything again, which takes more "
        "memory and time: set `preloads = False` in the settings of the service",
        culprit or "a module",
    )
    return Spawn(work)


def native_threads() -> int:
    """The threads of this process, those of libraries among them."""
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.exists() else threading.active_count()


def preload(module: str) -> str:
    """Import a module; return the first module below it that has started a thread, or nothing."""
    watch = _ThreadWatch()
    sys.meta_path.insert(0, watch)
    try:
        importlib.import_module(module)
    finally:
        sys.meta_path.remove(watch)
    return watch.culprit


class _ThreadWatch(MetaPathFinder):
    """Looks for the module whose code starts a thread. Imports are what they are without it."""

    def __init__(self) -> None:
        self.culprit = ""
        self._watched: dict[int, Loader] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        # Only those behind this one: an imported module may have put a finder of its own before it.
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:
            find_spec = getattr(finder, "find_spec", None)  # a finder without it is Python's affair
            spec: ModuleSpec | None = find_spec(fullname, path, target) if find_spec is not None else None
            if spec is not None:
                self._watch(spec.loader)
                return spec
        return None

    def _watch(self, loader: Loader | None) -> None:
        if loader is None or isinstance(loader, type):  # a namespace; or built in, and harmless
            return
        if id(loader) in self._watched:  # one that loads many modules, such as those of a zip file
            return
        self._watched[id(loader)] = loader
        execute = getattr(loader, "exec_module", None)
        if execute is None:  # an old loader
            return

        def exec_module(module: ModuleType) -> None:
            before = native_threads()
            execute(module)
            if not self.culprit and native_threads() > before:
                self.culprit = module.__name__

        with suppress(AttributeError):  # a loader whose attributes cannot be set is not watched
            loader.exec_module = exec_module  # type: ignore[method-assign]
