"""One worker process: Dramatiq's ``Worker`` with a service's broker, from its start to its end."""

import importlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from types import FrameType

from dramatiq import Worker, get_broker

from jobkit.cli.exit_status import KILLED, NOT_IMPORTED
from jobkit.middleware.shutdown import kill_children

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Work:
    """What a worker process does.

    Attributes:
        service: Whose actors it runs.
        queues: Of these queues; of all if none is named.
        threads: How many jobs at a time.
        shutdown_timeout: Milliseconds that its threads have to end, once it is told to stop.
    """

    service: str
    queues: tuple[str, ...]
    threads: int
    shutdown_timeout: int

    @property
    def module(self) -> str:
        """What builds the service's broker."""
        return f"{self.service}_service.main"

    def run(self, lifeline: int) -> None:
        """Work until SIGTERM; raises ``SystemExit`` where a restart would not help.

        Args:
            lifeline: A file that comes to its end when nobody is left who would stop this process.
        """
        stop = SimpleQueue[None]()
        listen(lambda: stop.put(None))
        threading.Thread(target=end_with, args=(lifeline,), name="jobkit-parent", daemon=True).start()
        try:
            importlib.import_module(self.module).broker()
        except ImportError:
            log.exception("the service cannot be imported")
            raise SystemExit(NOT_IMPORTED) from None
        broker = get_broker()
        broker.emit_after("process_boot")
        worker = Worker(broker, queues=set(self.queues) or None, worker_threads=self.threads)
        worker.start()
        log.info("a worker process of the service %s is ready for action", self.service)
        stop.get()
        worker.stop(timeout=self.shutdown_timeout)
        broker.close()


def listen(stop: Callable[[], object]) -> None:
    """Take SIGTERM as the request to stop, before the service is there to say more about it."""
    asked = False

    def on_stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise SystemExit(KILLED)
        asked = True
        stop()

    signal.signal(signal.SIGTERM, on_stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, on_stop)


def end_with(lifeline: int) -> None:
    """Tell this process to stop when its supervisor has died."""
    with suppress(OSError):
        os.read(lifeline, 1)
    os.kill(os.getpid(), signal.SIGTERM)


def leave(run: Callable[[], None]) -> None:
    """Run a whole process, and end it, whatever its threads do, and whoever has forked it."""
    status = 1
    try:
        run()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        log.exception("a worker process cannot go on")
    finally:
        kill_children()
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        os._exit(status)
