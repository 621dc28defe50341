"""Which kind of backing services is used: private nodes or containers."""

import os
from collections.abc import Mapping
from enum import StrEnum

from local_stack.errors import LocalStackError

SWITCH = "BACKING"  #: The variable by which a person chooses.
USED = "LOCAL_BACKING"  #: The variable that says what `make up` has chosen, beside the addresses that it has written.


class Backing(StrEnum):
    """A kind of backing services."""

    NODES = "nodes"
    DOCKER = "docker"


def chosen(environment: Mapping[str, str] = os.environ) -> Backing | None:
    """Return what the person chose; None leaves the choice to the machine.

    Raises:
        LocalStackError: there is no such kind.
    """
    value = environment.get(SWITCH, "").strip()
    try:
        return Backing(value) if value else None
    except ValueError:
        kinds = " or ".join(Backing)
        raise LocalStackError(f"{SWITCH}={value} is not known: set it to {kinds}, or leave it out") from None


def used(variables: Mapping[str, str]) -> Backing | None:
    """Return the kind whose addresses the variables hold; None if they hold none."""
    value = variables.get(USED, "")
    return Backing(value) if value in list(Backing) else None
