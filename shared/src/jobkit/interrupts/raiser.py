"""Raising an exception in another thread."""

from typing import Protocol

from dramatiq.middleware import Interrupt


class Raiser(Protocol):
    """Raises interrupts in threads that run a job.

    ``Interrupts`` calls the methods under its lock. Implemented by ``MonitoredRaiser`` and ``AsynchronousRaiser``;
    ``tests/unit/jobkit/test_interrupts.py`` runs over both.
    """

    def raise_in(self, thread: int, interrupt: type[Interrupt]) -> None:
        """Raise ``interrupt`` in ``thread`` at the next place that allows it."""

    def insist(self, thread: int) -> None:
        """Allow more places: the interrupt of ``thread`` has found none for a while."""

    def is_pending(self, thread: int) -> bool:
        """Return whether an interrupt of ``thread`` is certain not to have been raised yet."""

    def take_back(self, thread: int) -> None:
        """Raise nothing in ``thread`` any more."""
