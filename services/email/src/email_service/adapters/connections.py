"""The connections of one process to its mail server: a bounded number, and each used for several e-mails."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from email_service.adapters.session import Session
from email_service.errors import TooManyConnections

#: Seconds that a job waits for a connection. Below the time that a conversation has before its final dot.
PATIENCE = 60.0

#: Seconds that a server which refuses one more connection is asked for no more than it has given.
RESPECT = 60.0


class Connections:
    """Lends a connection to one job at a time. Safe to share between threads.

    Args:
        dial: Opens a connection.
        most: Connections at a time. More jobs wait.
        mails: E-mails over each, then it is closed.
        idle: Seconds until one that nobody needs is closed.
    """

    def __init__(self, dial: Callable[[], Session], *, most: int = 256, mails: int = 1, idle: float = 10.0) -> None:
        self._dial = dial
        self._most = most
        self._mails = mails
        self._idle_seconds = idle
        self._changed = threading.Condition()
        self._idle: list[Session] = []
        self._open = 0
        self._ceiling = most  # what the server allows
        self._ceiling_until = 0.0
        self._closed = threading.Event()
        self._janitor: threading.Thread | None = None

    @contextmanager
    def lend(self) -> Iterator[Session]:
        """Lend a connection that is ready for MAIL FROM. If the block raises, it is closed.

        Raises:
            TooManyConnections: none has become free in time, or the server refuses the first one.
            MailServerMisconfigured, MailServerUnavailable: none can be opened.
        """
        session = self._take()
        try:
            session.begin()
            yield session
        except BaseException:
            session.drop()
            self._gone()
            raise
        self._give_back(session)

    def close(self) -> None:
        """Close those that nobody uses; the others are closed when they are given back."""
        with self._changed:
            self._closed.set()
            idle, self._idle = self._idle, []
            self._open -= len(idle)
            janitor = self._janitor
        for session in idle:
            session.close()
        if janitor is not None:
            janitor.join()

    def _take(self) -> Session:
        give_up_at = time.monotonic() + PATIENCE
        while True:
            session = self._reserve(give_up_at)
            try:
                if session is not None:
                    if session.is_alive():
                        return session
                    session.drop()
                return self._dial()  # in the place of the one that is gone, if there was one
            except TooManyConnections:
                if not self._has_others():
                    raise
            except BaseException:  # the job's time limit, too
                self._gone()
                raise

    def _reserve(self, give_up_at: float) -> Session | None:
        """Return an idle connection, or None once there is room for another one."""
        while True:
            with self._changed:
                if self._idle:
                    return self._idle.pop()
                if self._open < self._limit():
                    self._open += 1
                    return None
                self._changed.wait(1.0)  # short: the job's time limit cannot be raised in here
            if time.monotonic() > give_up_at:
                raise TooManyConnections(f"all {self._open} connections to the mail server have been busy for long")

    def _limit(self) -> int:
        return min(self._most, self._ceiling) if time.monotonic() < self._ceiling_until else self._most

    def _has_others(self) -> bool:
        """Note that the server has refused one more; return whether there are others to wait for."""
        with self._changed:
            self._open -= 1
            self._ceiling = max(1, self._open)
            self._ceiling_until = time.monotonic() + RESPECT
            self._changed.notify()
            return self._open > 0

    def _gone(self) -> None:
        with self._changed:
            self._open -= 1
            self._changed.notify()

    def _give_back(self, session: Session) -> None:
        with self._changed:
            keep = session.mails < self._mails and not self._closed.is_set()
            if keep:
                session.used_at = time.monotonic()
                self._idle.append(session)
                self._changed.notify()
                if self._janitor is None:
                    self._janitor = threading.Thread(target=self._tidy_up, name="email-connections", daemon=True)
                    self._janitor.start()
        if not keep:
            session.close()
            self._gone()

    def _tidy_up(self) -> None:
        """Close connections that were idle for long, until there are none left."""
        while True:
            with self._changed:
                now = time.monotonic()
                old = [session for session in self._idle if session.used_at + self._idle_seconds <= now]
                self._idle = [session for session in self._idle if session not in old]
                self._open -= len(old)
                if not self._idle:
                    self._janitor = None
                pause = min((session.used_at + self._idle_seconds - now for session in self._idle), default=None)
                self._changed.notify(len(old))
            for session in old:
                session.close()
            if pause is None or self._closed.wait(pause):
                return
