"""Who refuses this process, and since when."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from jobkit.errors import text_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Refusal:
    text: str
    since: float


class Refusals:
    """Keeps what refuses a running process: a password or a permission that was taken away.

    Its jobs wait meanwhile, and the process goes on by itself once it is let in again. The log has one line at error
    level for each change, and the health check asks ``longest``. Safe to use from any thread.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[str, _Refusal] = {}
        self._lock = threading.Lock()

    def report(self, source: str, error: BaseException | str) -> None:
        """Note that ``source`` refuses us; the text says what to do."""
        text = error if isinstance(error, str) else text_of(error)
        with self._lock:
            # Several rights may hang on one password: that is one line.
            said = any(known.text == text for known in self._known.values())
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
            log.info("nothing refuses this process any more; jobs go on")

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
