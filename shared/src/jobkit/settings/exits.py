"""How a process ends that only a person can help."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from jobkit.errors import SettingsError

#: What a process exits with when only a person can help (sysexits.h: EX_CONFIG).
EXIT_MISCONFIGURED = 78


@contextmanager
def exit_if_misconfigured() -> Iterator[None]:
    """Turn a ``SettingsError`` into its lines on standard error and exit status 78, for a process's main function."""
    try:
        yield
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        sys.stderr.flush()
        raise SystemExit(EXIT_MISCONFIGURED) from None
