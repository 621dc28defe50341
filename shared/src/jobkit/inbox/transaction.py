"""The seam between the inbox and the clients of databases."""

from typing import Protocol, runtime_checkable

from jobkit.inbox.dialect import Dialect

#: One row as a client gives it: text, numbers, None.
Row = tuple[object, ...]


@runtime_checkable
class Transaction(Protocol):
    """One transaction of one client. Implement it for a client that the inbox does not know.

    What goes wrong is raised as the client raises it, so that a handler meets one kind of error for its own statements
    and for those of the inbox.
    """

    @property
    def dialect(self) -> Dialect:
        """The kind of database."""

    def run(self, sql: str, *parameters: str | float) -> list[Row]:
        """Execute one statement, with ``?`` for each parameter and no other ``?`` in it; its rows, if it gives any."""

    def begin(self) -> None:
        """Begin the transaction if the client would do so with its next write.

        Raises:
            NotOneTransaction: the client knows that every statement commits by itself. It need not know where the
                database refuses a savepoint outside a transaction, as PostgreSQL does.
        """
