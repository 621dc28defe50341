"""The exit status of a process that a restart would not help."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from jobkit.settings import EXIT_MISCONFIGURED, PlatformSettings

# Dramatiq's statuses: its command is not imported for two numbers, because it brings multiprocessing with it.
#: The code of the service cannot be imported.
NOT_IMPORTED: Final = 2
#: A second request to stop came before the first was carried out.
KILLED: Final = 1

#: Wrong settings; arguments that name nothing here, and code that cannot be imported (the status of both is 2).
_HOPELESS: Final = frozenset({EXIT_MISCONFIGURED, NOT_IMPORTED})


@contextmanager
def replaced_if_hopeless() -> Iterator[None]:
    """End with ``JOBKIT_MISCONFIGURED_STATUS``, if it is set, where only a person can help.

    Docker restarts every status but 0 (``restart: on-failure``), and has no list of statuses to leave alone.
    """
    try:
        yield
    except SystemExit as end:  # Typer's command raises nothing else
        if end.code not in _HOPELESS:
            raise
        raise SystemExit(_told(otherwise=int(end.code))) from None


def _told(*, otherwise: int) -> int:
    # Read by itself: the setting has to count where the others are wrong.
    value = os.environ.get(PlatformSettings.variable("misconfigured_status"), "").strip()
    return int(value) if value.isdecimal() and int(value) <= 125 else otherwise
