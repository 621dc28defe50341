"""A dry run of everything that jobs do with breakers, which shows whether the store permits it."""

import functools
import uuid
from datetime import timedelta

from jobkit.breaker.switches import DRY_RUN, Switches

_PROBE = timedelta(seconds=5)


@functools.cache
def _owner() -> str:
    """One name for each process: a dry run that is refused half-way leaves one breaker then, not one for each try."""
    return uuid.uuid4().hex


def exercise_switches(switches: Switches, service: str) -> None:
    """Open a breaker that nobody asks for, let it probe, and close it.

    Args:
        switches: Hides its name from people.
        service: Whose breaker, since a permission may depend on the key.

    Raises:
        StoreRefused: A command or a key is not permitted.
        StoreUnavailable: The store does not answer now.
    """
    owner = _owner()
    name = f"{service}/{DRY_RUN}{owner}"
    switches.trip(name, owner, pause=timedelta(), longest=timedelta(), reason="a dry run")
    switches.look(name)
    switches.ask(name, owner, probe_for=_PROBE)
    switches.give_up_probe(name, owner)
    switches.ask(name, owner, probe_for=_PROBE)
    switches.close(name, owner)
    switches.reset(name)
