"""The health of a worker process, for the container's health check."""

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from dramatiq import Broker, Worker
from dramatiq.broker import MessageProxy
from dramatiq.middleware import Middleware

from jobkit.middleware.sign_of_life import SignOfLife, forget_replacements
from jobkit.middleware.vitals import Reach, Vitals

#: Seconds between two renewals of the sign of life, or a quarter of the bound if that is less.
INTERVAL: Final = 5.0

log = logging.getLogger(__name__)


class Health(Middleware):
    """Renews the sign of life of this process, with what is wrong: a thread that died, or that does not do its work.

    A broker or store that is down does not make a worker unhealthy: it waits, and a restart would not help. Nor does a
    worker that stops, whose threads end one by one.

    Args:
        folder: Where the sign of life is.
        stall: Seconds that a thread may not do its work.
        connect: Connects to the broker once; raises if that fails.
        others: Return further problems, a line for each.
        always: Return problems of a worker that should have stopped, too.
        notes: Returns why jobs wait though the worker is healthy, a line for each.
    """

    def __init__(
        self,
        folder: Path,
        stall: float,
        connect: Callable[[], None],
        others: Sequence[Callable[[], Sequence[str]]] = (),
        always: Sequence[Callable[[], Sequence[str]]] = (),
        *,
        notes: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        self._folder = folder
        self._sign = SignOfLife(folder, "worker")
        self._stall = stall
        self._answers = Reach(connect)
        self._others = others
        self._always = always
        self._notes = notes
        self._job_has_ended = False
        self._vitals: Vitals | None = None
        self._stopping = threading.Event()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._known: list[str] = []

    def before_worker_boot(self, broker: Broker, worker: Worker) -> None:
        self._vitals = Vitals(worker, self._stall, self._answers)

    def after_worker_boot(self, broker: Broker, worker: Worker) -> None:
        self._thread = threading.Thread(target=self._run, name="jobkit-health", daemon=True)
        self._thread.start()

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        if self._vitals is not None:
            self._vitals.began(message.queue_name)

    def after_process_message(
        self,
        broker: Broker,
        message: MessageProxy,
        *,
        result: object = None,
        exception: BaseException | None = None,
    ) -> None:
        self._job_has_ended = True
        if self._vitals is not None:
            self._vitals.ended(message.queue_name)

    def after_skip_message(self, broker: Broker, message: MessageProxy) -> None:
        if self._vitals is not None:
            self._vitals.ended(message.queue_name)

    def before_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        self._stopping.set()

    def after_worker_shutdown(self, broker: Broker, worker: Any) -> None:  # Any: Dramatiq's Worker, not used
        self._stopping.set()
        self._ended.set()
        if self._thread is not None:
            self._thread.join(INTERVAL)  # it would write the file again
        self._sign.remove()

    def _run(self) -> None:
        while True:
            try:
                if self._job_has_ended:
                    self._job_has_ended = False
                    forget_replacements(self._folder)
                always = [problem for one in self._always for problem in one()]
                self._sign.renew([*self._problems(), *always], self._notes())
            except Exception:  # without this thread, the process counts as dead
                log.exception("the health of this worker cannot be told now")
                self._sign.renew()
            if self._ended.wait(min(INTERVAL, self._stall / 4)):
                return

    def _problems(self) -> list[str]:
        if self._vitals is None or self._stopping.is_set():
            return []
        problems = [*self._vitals.problems(), *(problem for other in self._others for problem in other())]
        if self._stopping.is_set():  # meanwhile: what was found is how it stops
            return []
        for problem in problems:
            if problem not in self._known:
                log.critical("unhealthy: %s", problem)
        self._known = problems
        return problems
