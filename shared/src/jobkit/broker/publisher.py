"""Publishing that returns when the broker has confirmed, and raises when it has not.

One thread per process runs one session after the other. Senders hand it messages and wait; it writes whatever has
gathered and matches the confirms that come back, so many senders share one round trip, and heartbeats are answered
while nobody sends.
"""

import logging
import os
import random
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from jobkit.broker.connection import ConnectionSettings
from jobkit.broker.outgoing import Batch, Entry, Outgoing
from jobkit.broker.publish_session import PublishSession
from jobkit.errors import BrokerUnavailable

_LONGEST_PAUSE: Final = 2.0
_CLOSE_TIMEOUT: Final = 5.0

log = logging.getLogger(__name__)


class ConfirmedPublisher:
    """Publishes persistent messages, mandatory and with confirms, over one connection that it keeps alive.

    It connects at the first publish, in each process by itself, so it may be made before a fork. A message whose
    connection breaks before its confirm is published again: consumers must tell duplicates by their id.
    """

    def __init__(self, connection: ConnectionSettings) -> None:
        self._settings = connection
        self._start_over()
        # After a fork the parent's thread and socket are not ours, and its lock may be held by a thread that is gone.
        start_over = weakref.WeakMethod(self._start_over)
        os.register_at_fork(after_in_child=lambda: (start_over() or _nothing)())

    def publish(self, messages: Sequence[Outgoing], timeout: float) -> None:
        """Publish all and wait for their confirms.

        Raises:
            SendError: what went wrong with the first message that was not confirmed; each holds its own ``error``.
        """
        if not messages:
            return
        batch = Batch(len(messages))
        entries = [Entry(message, batch) for message in messages]
        with self._lock:
            self._ensure_running()
            self._waiting.extend(entries)
            if self._session is not None:
                self._session.wake()
        if not batch.wait(timeout):
            self._abandon(batch, entries)
            reason = self._trouble or f"no confirm came from RabbitMQ at {self._settings.where} within {timeout:.3g} s"
            for message in messages:
                if not message.confirmed and message.error is None:
                    message.error = BrokerUnavailable(reason)
        for message in messages:
            if message.error is not None:
                raise message.error

    def close(self) -> None:
        """Close the connection; whoever still waits is told at its deadline."""
        with self._lock:
            self._closing.set()
            thread, session = self._thread, self._session
            if session is not None:
                session.hang_up()
        # One that is still being made is closed once it is there; nobody waits for that, it may take its time-out.
        if thread is not None and session is not None and session.connected:
            thread.join(_CLOSE_TIMEOUT)

    def _start_over(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[Entry] = deque()
        self._thread: threading.Thread | None = None
        self._session: PublishSession | None = None
        self._closing = threading.Event()
        self._trouble = ""

    def _abandon(self, batch: Batch, entries: Sequence[Entry]) -> None:
        """Nobody waits for these any more: an outage must not fill the memory with what has failed."""
        batch.abandoned = True
        for entry in entries:
            with suppress(ValueError, IndexError):  # it is in flight, or the publisher has just taken it
                self._waiting.remove(entry)
        with self._lock:
            if self._session is not None:
                self._session.give_up_waiting()

    def _ensure_running(self) -> None:
        if self._closing.is_set():
            raise BrokerUnavailable("this publisher has been closed")
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="jobkit-publisher", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        pause = 0.1
        while not self._closing.is_set():
            started = time.monotonic()
            try:
                self._run_session()
            except Exception as error:  # whatever it was, the senders have deadlines and the thread must live
                self._report(error)
            if time.monotonic() - started > _LONGEST_PAUSE:
                pause = 0.1
            self._closing.wait(pause * random.uniform(0.5, 1.0))  # noqa: S311  jitter, not a secret
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _run_session(self) -> None:
        session = PublishSession(self._settings, self._waiting, self._report)
        try:
            with self._lock:
                if self._closing.is_set():
                    return
                self._session = session
            session.run()
        finally:
            with self._lock:
                self._session = None
            session.dispose()

    def _report(self, error: BaseException | None) -> None:
        if error is None:
            if self._trouble:
                log.info("RabbitMQ at %s takes messages again", self._settings.where)
            self._trouble = ""
            return
        text = self._settings.describe(error)
        if not self._trouble and not self._closing.is_set():
            log.warning("%s; sends wait for it", text)
        self._trouble = text


def _nothing() -> None: ...
