"""Whether a process may do what its work needs: tried at its start, and again while it runs."""

import logging
from collections.abc import Callable, Mapping

from jobkit.errors import JobkitError, RecordUnreadable, SettingsError, StoreFull, StoreRefused, StoreUnavailable
from jobkit.refusals import Refusals
from jobkit.store.base import GENERATION, JobStore

log = logging.getLogger(__name__)

#: Does what the work needs; raises ``StoreRefused`` or ``SettingsError`` if that is refused, and ``StoreUnavailable``
#: in an outage.
Check = Callable[[], None]

_REFUSALS = (StoreRefused, RecordUnreadable, SettingsError)


def refuse_other_generations(store: JobStore, service: str) -> None:
    """Raise ``SettingsError`` if a worker of the service is alive that reads and writes other messages or records."""
    for beat in store.processes(service):
        other = beat.process
        if beat.is_alive and other.generation != GENERATION:
            raise SettingsError(
                f"a worker of {service} uses generation {other.generation} of messages and records (process "
                f"{other.pid} on {other.host}), and this one generation {GENERATION}: they must not run together. Stop "
                f"all workers of {service}, then start those of one version, see docs/how-to/upgrade.md"
            )


class Access:
    """Tries each right, so that one that is missing is known before a job needs it, and one that is back is noticed.

    Args:
        checks: What is tried, by the source that ``refusals`` is told.
        refusals: Told of what is refused while the process runs.
        costly: Checks of the broker, which take a connection. They are tried at the start, and later only while their
            source is known to refuse us.

    Attributes:
        store_is_full: Whether the last look has met a store without room.
    """

    def __init__(
        self, checks: Mapping[str, Check], refusals: Refusals, *, costly: Mapping[str, Check] | None = None
    ) -> None:
        self._checks = checks
        self._costly = costly or {}
        self._refusals = refusals
        self.store_is_full = False

    def demand(self) -> None:
        """Try everything once. Outages are ignored, because they pass.

        Raises:
            SettingsError: Something is refused; the text says what to do.
        """
        try:
            for check in self._checks.values():
                check()
        except _REFUSALS as refusal:
            raise SettingsError(str(refusal)) from refusal
        except StoreUnavailable as outage:  # the other checks would wait for the same store
            log.debug("what this process may do is not known yet: %s", outage)
        for check in self._costly.values():
            check()

    def look(self) -> None:
        """Try everything, and note what is refused and what is not any more."""
        is_full = False
        costly = {source: check for source, check in self._costly.items() if self._refusals.has(source)}
        for source, check in {**self._checks, **costly}.items():
            try:
                check()
            except _REFUSALS as refusal:
                self._refusals.report(source, refusal)
            except JobkitError as outage:  # those who work announce it
                is_full = is_full or isinstance(outage, StoreFull)
            else:
                self._refusals.clear(source)
        self.store_is_full = is_full
