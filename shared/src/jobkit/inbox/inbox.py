"""The table of marks."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Generic, TypeVar, cast

from jobkit.errors import NotOneTransaction
from jobkit.inbox.clients import transaction_of
from jobkit.inbox.dialect import Dialect
from jobkit.inbox.savepoint import savepoint
from jobkit.inbox.transaction import Transaction

R = TypeVar("R")

#: A name, or schema.name. PostgreSQL cuts longer names silently; lower case alone spares everybody the quoting.
_TABLE = re.compile(r"[a-z_][a-z0-9_]{0,62}(\.[a-z_][a-z0-9_]{0,62})?")


@dataclass(frozen=True)
class Outcome(Generic[R]):
    """What became of an effect.

    Attributes:
        result: What the effect returned, now or in the run that it happened in.
        repeated: Whether it had happened before, so that it was not run now.
    """

    result: R
    repeated: bool


class Inbox:
    """Runs each effect once: a mark in the same database commits with it, or not at all.

    >>> inbox = Inbox()
    >>> with engine.begin() as transaction:                                  # doctest: +SKIP
    ...     inbox.once(transaction, f"{job.actor}/{context.job_id}", lambda: add_to_account(transaction, job))

    It keeps no connection and no state, so that one serves all threads. A transaction is a SQLAlchemy ``Connection`` or
    ``Session``, a psycopg 3 or ``sqlite3`` connection or cursor, or a ``jobkit.inbox.Transaction``. The caller begins
    and commits it. The pattern is the idempotent receiver of Hohpe and Woolf, *Enterprise Integration Patterns*.

    Args:
        table: Where the marks are, or ``schema.table``; lower case.

    Raises:
        ValueError: that is no name of a table.
    """

    def __init__(self, table: str = "jobkit_inbox") -> None:
        if not _TABLE.fullmatch(table):
            raise ValueError(f"table={table!r} must be a name, or schema.name, of a-z, 0-9 and _")
        self._table = ".".join(f'"{part}"' for part in table.split("."))

    def create(self, transaction: object) -> None:
        """Make the table if it is missing; several may do so at once. It commits with the caller's transaction."""
        client = transaction_of(transaction)
        exists = client.dialect.exists
        # Asked first, so that who may not make tables can use one that is there.
        if not exists or client.run(self._sql(exists)) != [(True,)]:
            client.run(self._sql(client.dialect.create))

    def once(self, transaction: object, key: str, effect: Callable[[], R]) -> Outcome[R]:
        """Run ``effect`` unless it has been run under that key and committed.

        Of two runs under one key at a time, the second waits until the first commits, and is then answered, or until it
        rolls back, and then runs. PostgreSQL above READ COMMITTED fails it instead when the first commits (SQLSTATE
        40001), and SQLite when it has waited for its timeout: the job is tried again, and then answered.

        Args:
            transaction: The one that ``effect`` writes in.
            key: Names the effect, in all of the table: ``f"{job.actor}/{context.job_id}"``, as ids are unique per actor
                only; a job with effects in several transactions adds the step to each.
            effect: Writes through ``transaction``, and neither commits nor rolls it back. What it returns is kept as
                JSON text, so it is made of what JSON has: no tuples, no dates, keys that are text.

        Raises:
            NotOneTransaction: mark and effect would not commit together. Nothing was run, or ``effect`` ended the
                transaction itself.
            TypeError: ``transaction`` is of no known kind, or the result is not JSON.
            ValueError: the key is empty.
        """
        if not key:
            raise ValueError("an empty key would be the same for every job")
        client = transaction_of(transaction)
        with savepoint(client, key):
            # The mark comes first: it is what a second run waits for.
            while not client.run(self._sql(client.dialect.claim), key):
                found = self._find(client, key)
                if found is not None:
                    return cast("Outcome[R]", found)
                # It was forgotten between the two statements, so it is to be had again.
            text = _json(effect())
        client.run(self._sql(client.dialect.keep), text, key)  # only now is it sure that the mark's transaction is open
        return Outcome(cast("R", json.loads(text)), repeated=False)

    def find(self, transaction: object, key: str) -> Outcome[object] | None:
        """What has become of the effect with that key in a committed transaction or in this one, if anything has."""
        return self._find(transaction_of(transaction), key)

    def forget(self, transaction: object, *, older_than: timedelta) -> int:
        """Remove the marks of effects that are older than that; returns how many.

        A job that comes back after its mark is gone has its effect again. So keep marks for longer than that can take:
        the life of its record, and the time within which dead letters are sent again.

        Raises:
            ValueError: ``older_than`` is not positive.
        """
        if older_than <= timedelta():
            raise ValueError(f"older_than={older_than} must be positive")
        client = transaction_of(transaction)
        rows = client.run(self._sql(client.dialect.forget), older_than.total_seconds())
        if client.dialect.forgotten:
            rows = client.run(client.dialect.forgotten)
        return cast("int", rows[0][0])

    def definition(self, dialect: Dialect) -> str:
        """The statement that makes the table, for those who keep their schema in migrations."""
        return self._sql(dialect.definition)

    def _find(self, client: Transaction, key: str) -> Outcome[object] | None:
        rows = client.run(self._sql(client.dialect.find), key)
        if not rows:
            return None
        text = rows[0][0]
        if not isinstance(text, str):
            raise NotOneTransaction(
                f"the mark of {key} was committed without its effect's end, so nobody knows what has happened: look, "
                "and remove the mark or give it a result"
            )
        return Outcome(json.loads(text), repeated=True)

    def _sql(self, statement: str) -> str:
        return statement.replace("{table}", self._table)


def _json(result: object) -> str:
    text = json.dumps(result, allow_nan=False)
    if json.loads(text) != result:
        raise TypeError(f"an effect's result must read back from JSON as it was, which {result!r:.200} does not")
    return text
