"""A service's contracts before a change and after it, by their names.

``Invoice`` gains a field with a default. ``Refund`` gains one too, and raises its version, because workers that do not
have the field must not run it. ``Reminder`` is new.
"""

from collections.abc import Sequence
from typing import Literal

from jobkit.contracts import Job

Generation = Literal["old", "new"]


def contracts_of(generation: Generation) -> dict[str, type[Job]]:
    """Return the contracts of one generation."""
    contracts = _old() if generation == "old" else _new()
    return {contract.__name__: contract for contract in contracts}


def _old() -> Sequence[type[Job]]:
    class Invoice(Job, queue="shop"):
        name: str
        first: str = ""

    class Refund(Job, queue="shop"):
        name: str

    return Invoice, Refund


def _new() -> Sequence[type[Job]]:
    class Invoice(Job, queue="shop"):
        name: str
        first: str = ""
        note: str = "default"

    class Refund(Job, queue="shop", version=2):
        name: str
        note: str = "default"

    class Reminder(Job, queue="shop"):
        name: str

    return Invoice, Refund, Reminder
