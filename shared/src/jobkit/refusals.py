"""Who refuses this process, and since when."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from jobkit.errors import text_of

#: Sources that several parts report and try.
LOGIN: Final = "the login at RabbitMQ"
WRITING: Final = "writing to RabbitMQ"

#: Texts that are remembered as said. Those of one refusal differ by the few commands and queues that it concerns.
_MOST_SAID: Final = 100

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Refusal:
    text: str
    since: float


class Refusals:
    """Keeps what refuses a running process: a password or a permission that was taken away.

    Jobs wait meanwhile, and continue when the right is given back. The log has one line at error level for each text,
    whoever reports it and how often. The health check asks ``problems``. Safe to use from any thread.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[str, _Refusal] = {}
        self._said: set[str] = set()
        self._lock = threading.Lock()

    def report(self, source: str, error: BaseException | str) -> None:
        """Note that ``source`` refuses us; the text says what to do."""
        text = error if isinstance(error, str) else text_of(error)
        with self._lock:
            # Several rights may hang on one password, and several threads may meet it: that is one line.
            said = text in self._said or len(self._said) >= _MOST_SAID
            self._said.add(text)
            known = self._known.get(source)
            self._known[source] = _Refusal(text, known.since if known else self._clock())
        if not said:
            log.error("%s; jobs wait until that is mended", text)

    def clear(self, source: str) -> None:
        """Note that ``source`` does not refuse us."""
        with self._lock:
            known = self._known.pop(source, None)
            over = known is not None and not self._known
            if over:
                self._said.clear()
        if over:
            log.info("nothing refuses this process any more; jobs go on")

    def knows(self, error: BaseException | str) -> bool:
        """Return whether somebody has reported a refusal with this text, so that it needs no other line."""
        text = error if isinstance(error, str) else text_of(error)
        with self._lock:
            return any(known.text == text for known in self._known.values())

    def has(self, source: str) -> bool:
        """Return whether ``source`` refuses us."""
        with self._lock:
            return source in self._known

    def longest(self) -> timedelta:
        """Return for how long the oldest refusal has lasted; zero if there is none."""
        with self._lock:
            now = self._clock()
            oldest = min((refusal.since for refusal in self._known.values()), default=now)
        return timedelta(seconds=max(0.0, now - oldest))

    def problems(self, bound: timedelta) -> list[str]:
        """Return the texts of those that have lasted for longer than ``bound``."""
        with self._lock:
            now = self._clock()
            lasting = [one.text for one in self._known.values() if now - one.since > bound.total_seconds()]
        return list(dict.fromkeys(lasting))
