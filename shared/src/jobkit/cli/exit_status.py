"""The exit status of a process that a restart would not help."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from jobkit.settings import EXIT_MISCONFIGURED, PlatformSettings

#: Wrong settings; arguments that name nothing here, and code that cannot be imported (Dramatiq's status for it).
_HOPELESS = frozenset({EXIT_MISCONFIGURED, 2})


@contextmanager
def replaced_if_hopeless() -> Iterator[None]:
    """End with ``JOBKIT_MISCONFIGURED_STATUS``, if it is set, where only a person can help.

    Docker restarts every status but 0 (``restart: on-failure``), and has no list of statuses to leave alone.
    """
    try:
        yield
    except (SystemExit, typer.Exit) as error:
        status = error.code if isinstance(error, SystemExit) else error.exit_code
        if status not in _HOPELESS:
            raise
        raise SystemExit(_told(otherwise=int(status))) from None


def _told(*, otherwise: int) -> int:
    # Read by itself: the setting has to count where the others are wrong.
    value = os.environ.get(PlatformSettings.variable("misconfigured_status"), "").strip()
    return int(value) if value.isdecimal() and int(value) <= 125 else otherwise
