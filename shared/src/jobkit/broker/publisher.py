"""Publishing that says whether the broker has confirmed each message.

Senders hand over messages and wait; one of those that wait drives the connection (``PublishSession``), so that a lone
send costs no change of threads, and many share one round trip. The thread of the publisher connects, and answers
heartbeats while nobody sends.
"""

import logging
import os
import random
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from jobkit.broker.connection import ConnectionSettings, is_misconfigured
from jobkit.broker.detours import Detours
from jobkit.broker.outgoing import Outgoing
from jobkit.broker.publish_session import PublishSession
from jobkit.errors import BrokerUnavailable
from jobkit.refusals import LOGIN, Refusals

_LONGEST_PAUSE: Final = 2.0
_CLOSE_TIMEOUT: Final = 5.0

#: Seconds between two looks of a sender that waits for others: at a connection attempt, or whether it may lead.
_LOOK: Final = 0.05

log = logging.getLogger(__name__)


class ConfirmedPublisher:
    """Publishes persistent messages, mandatory and with confirms, over one connection that it keeps alive.

    It connects at the first publish, in each process by itself, so it may be made before a fork. A message whose
    connection breaks before its confirm is published again: consumers must tell duplicates by their id.

    Args:
        connection: The broker.
        refusals: Told when the broker refuses the login. Without it, the publisher logs that itself.

    Attributes:
        lost_at: When its connection was lost last, by the monotonic clock; 0 if that never happened.
        detours: Which services' exchanges do not take jobs now.
    """

    def __init__(self, connection: ConnectionSettings, refusals: Refusals | None = None) -> None:
        self._settings = connection
        self.detours = Detours()
        self.lost_at = 0.0
        self._refusals = refusals
        self._longest_attempt = connection.longest_attempt
        self._start_over()
        # After a fork the parent's thread and socket are not ours, and its lock may be held by a thread that is gone.
        start_over = weakref.WeakMethod(self._start_over)
        os.register_at_fork(after_in_child=lambda: (start_over() or _nothing)())

    @property
    def connected(self) -> bool:
        """Whether the broker takes messages now."""
        session = self._session
        if session is not None:
            session.look()  # nobody may have noticed yet
        return session is not None and session.taking

    def begin(self, message: Outgoing, *, gather: bool = False) -> None:
        """Publish the message as soon as that is possible. The caller waits for it or abandons it.

        Args:
            message: It was never given to a publisher.
            gather: Others follow: publish it with those that have come some milliseconds later.

        Raises:
            BrokerUnavailable: The publisher is closed, or its thread cannot be started now.
        """
        if self._closing.is_set():
            raise BrokerUnavailable("this publisher has been closed")
        self._waiting.append(message)
        if self._thread is None:  # after the append: it may be ending now, and has not seen the message
            try:
                with self._lock:
                    self._ensure_running()
            except BrokerUnavailable:
                self.abandon([message])
                raise
        session = self._session
        if gather and session is not None:
            session.gather()

    def wait(self, message: Outgoing, timeout: float, *, since: float) -> None:
        """Wait until the message is settled. Its ``error`` says why it was not confirmed.

        A connection attempt has time of its own: it may outlast ``timeout``, until all nodes have been tried once.

        Args:
            message: It was given to ``begin``.
            timeout: Seconds to wait for the confirm while the broker is connected.
            since: When the broker was last known to answer this sender, by the monotonic clock.
        """
        if message.settled:
            return
        end = since + timeout + self._longest_attempt
        while not self._is_settled(message, min(end, max(since, self._connected_at) + timeout)):
            if time.monotonic() < min(end, max(since, self._connected_at) + timeout):
                continue  # it has connected meanwhile
            if not self._outlast_attempt(message, end):
                self.abandon([message])
                if not message.settled:  # if a confirm comes all the same, nobody looks at it
                    message.error = BrokerUnavailable(self._why_not(timeout))
                return

    def abandon(self, messages: Iterable[Outgoing]) -> None:
        """Forget messages that nobody waits for any more: an outage must not fill the memory with what has failed."""
        session = None
        for message in messages:
            message.abandoned, session = True, self._session
            with suppress(ValueError, IndexError):  # it is in flight, or the publisher has just taken it
                self._waiting.remove(message)
        if session is not None:
            session.give_up_waiting()

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

    def _is_settled(self, message: Outgoing, deadline: float) -> bool:
        """Lead or follow until the message is settled or the deadline has passed; return whether it is settled."""
        self._following[message] = None  # before it looks whether it can lead: whoever leads now then passes that on
        try:
            while not message.settled:
                session = self._session
                if session is None or not session.lead(message, deadline):
                    if session is not None:
                        session.wake()
                    message.wait(min(deadline - time.monotonic(), _LOOK))
                if time.monotonic() >= deadline:
                    break
        finally:
            del self._following[message]
        return message.settled

    def _pass_on(self) -> None:
        """Let another of those that wait lead."""
        for message in list(self._following):
            if not message.settled:
                message.ring()
                return

    def _start_over(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[Outgoing] = deque()
        self._following: dict[Outgoing, None] = {}
        self._thread: threading.Thread | None = None
        self._session: PublishSession | None = None
        self._closing = threading.Event()
        self._trouble = ""
        self._refused = False
        self._connected_at = 0.0

    def _ensure_running(self) -> None:
        if self._thread is not None:
            return
        thread = threading.Thread(target=self._run, name="jobkit-publisher", daemon=True)
        try:
            thread.start()
        except (RuntimeError, MemoryError) as error:  # no memory, or too many processes: the next send tries again
            raise BrokerUnavailable(f"the publisher's thread cannot be started: {error}") from error
        self._thread = thread

    def _run(self) -> None:
        pause = 0.1
        while not self._closing.is_set():
            started = time.monotonic()
            try:
                self._run_session()
            except Exception as error:  # whatever it was, the senders have deadlines and the thread must live
                self._report(error)
            if self._refused:
                self._fail_at_once()
                return
            if time.monotonic() - started > _LONGEST_PAUSE:
                pause = 0.1
            self._closing.wait(pause * random.uniform(0.5, 1.0))  # noqa: S311  jitter, not a secret
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _run_session(self) -> None:
        with self._lock:
            if self._closing.is_set():
                return
            session = PublishSession(self._settings, self._waiting, self._report, self.detours, self._pass_on)
            self._session = session
        try:
            session.run()
        finally:
            if session.connected:
                self.lost_at = time.monotonic()
            with self._lock:
                self._session = None

    def _fail_at_once(self) -> None:
        """Settle what waits for a broker that refuses us; the next send starts a thread and asks again."""
        with self._lock:
            while self._waiting:
                message = self._waiting.popleft()
                if not message.abandoned:
                    message.settle(BrokerUnavailable(self._trouble))
            self._thread = None

    def _outlast_attempt(self, message: Outgoing, end: float) -> bool:
        """Wait for the connection attempt that is under way, if there is one.

        Returns:
            Whether waiting for the confirm makes sense: it has connected, or the message is settled.
        """
        session = self._session
        if session is None or session.taking:
            return message.settled
        while session.connecting:
            if message.wait(_LOOK) or time.monotonic() >= end:
                break
        return message.settled or (session.taking and time.monotonic() < end)

    def _why_not(self, timeout: float) -> str:
        return self._trouble or f"no confirm came from RabbitMQ at {self._settings.where} within {timeout:.3g} s"

    def _report(self, error: BaseException | None) -> None:
        if error is None:
            if self._trouble:
                log.info("RabbitMQ at %s takes messages again", self._settings.where)
            self._trouble, self._refused, self._connected_at = "", False, time.monotonic()
            if self._refusals is not None:
                self._refusals.clear(LOGIN)
            return
        text = self._settings.describe(error)
        self._refused = is_misconfigured(error)
        if self._refused and self._refusals is not None:
            self._refusals.report(LOGIN, text)
        elif not self._trouble and not self._closing.is_set():
            log.log(logging.ERROR if self._refused else logging.WARNING, "%s; sends %s", text, self._consequence)
        self._trouble = text

    @property
    def _consequence(self) -> str:
        return "fail at once" if self._refused else "wait for it"


def _nothing() -> None: ...
