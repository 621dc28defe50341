"""Declaring once: what one connection of a process has declared, its others do not declare again."""

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Final, Literal

from pika.adapters.blocking_connection import BlockingConnection

from jobkit.broker import declarations
from jobkit.broker.declarations import Outcome, needed_to_be_due, parts_of, shared_parts

#: Whether a process makes what it uses (``auto``), or only looks whether it is there (``never``).
Declare = Literal["auto", "never"]

#: As the name of what all queues share: no queue is called so.
_SHARED: Final = ""

log = logging.getLogger(__name__)


class Declarer:
    """Declares what a process uses, each thing once, and again after a connection was lost.

    After a restart of the broker, all connections of a process come back together. The first of them declares. Safe to
    use from any thread, and after a fork.

    Args:
        mode: ``"never"``: nothing is made or bound. What is missing is told.
    """

    def __init__(self, mode: Declare = "auto") -> None:
        self._carry_out = declarations.carry_out if mode == "auto" else declarations.look_for
        self._declared_at: dict[str, float] = {}
        self._missing: set[str] = set()
        self._told: set[str] = set()
        self._renew_lock()
        renew_lock = weakref.WeakMethod(self._renew_lock)
        # A thread that does not exist in the child may have it.
        os.register_at_fork(after_in_child=lambda: (renew_lock() or _nothing)())

    def ensure(
        self,
        queues: Iterable[str],
        connect: Callable[[], BlockingConnection | AbstractContextManager[BlockingConnection]],
        *,
        since: float,
    ) -> None:
        """Declare the queues and what all queues share, unless that was done after ``since``.

        Args:
            queues: Their names.
            connect: Gives a connection to the broker. It is not called if nothing is to be done.
            since: When a connection was lost last, by the monotonic clock; infinite means: in any case.

        Raises:
            TopologyMismatch: Something exists with other arguments.
            DeclarationRefused: Something does not exist, and is not to be made by this user or process.
            AMQPError, OSError: The broker cannot be reached.
        """
        with self._lock:
            wanted = [name for name in (_SHARED, *queues) if self._declared_at.get(name, -1.0) <= since]
            if not wanted:
                return
            parts = [part for name in wanted for part in (parts_of(name) if name else shared_parts())]
            began = time.monotonic()
            with connect() as connection:
                outcome = self._carry_out(connection, parts)
            self._missing -= {step.what for part in parts for step in part.steps}
            self._missing |= set(outcome.missing)
            self._declared_at.update(dict.fromkeys(wanted, began))
            self._tell(outcome)

    def knows(self, queue: str) -> bool:
        """Return whether the queue has been declared by this process."""
        return queue in self._declared_at

    def has_due_queue(self, queue: str) -> bool:
        """Return whether delayed messages can reach the due queue of ``queue``, which was ensured."""
        return not self._missing or self._missing.isdisjoint(needed_to_be_due(queue))

    def _tell(self, outcome: Outcome) -> None:
        for kind, sentence in outcome.sentences().items():
            if kind not in self._told:  # once: what a user may not declare is much the same for all queues
                self._told.add(kind)
                log.warning("%s", sentence)

    def _renew_lock(self) -> None:
        self._lock = threading.Lock()


def _nothing() -> None: ...
