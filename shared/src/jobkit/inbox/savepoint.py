"""The bracket around mark and effect: both are in one transaction, and both go if the effect fails."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from jobkit.errors import NotOneTransaction
from jobkit.inbox.transaction import Transaction

#: SQLSTATEs: no transaction is open, and no such savepoint is in it
#: (https://www.postgresql.org/docs/current/errcodes-appendix.html).
_OUTSIDE = {"25P01", "3B001"}


@contextmanager
def savepoint(transaction: Transaction, key: str) -> Iterator[None]:
    """Open a savepoint, which lives and dies with its transaction, so that nobody has to be asked what that is.

    After an error all is as before the block, so that a caller who goes on and commits commits no lonely mark.

    Raises:
        NotOneTransaction: there is no transaction at the start, or another one at the end.
    """
    transaction.begin()
    try:
        transaction.run("SAVEPOINT jobkit_inbox")
    except Exception as error:
        if _is_outside(error):
            raise NotOneTransaction(
                "each statement commits by itself (autocommit), so a mark could outlive a lost effect: "
                "begin a transaction"
            ) from error
        raise
    try:
        yield
    except BaseException:  # an interrupt, too
        with suppress(Exception):  # the connection may be gone, and the first error tells more
            transaction.run("ROLLBACK TO SAVEPOINT jobkit_inbox")
            transaction.run("RELEASE SAVEPOINT jobkit_inbox")
        raise
    try:
        transaction.run("RELEASE SAVEPOINT jobkit_inbox")
    except Exception as error:
        if _is_outside(error):
            raise NotOneTransaction(f"the effect of {key} ended the transaction that its mark is in") from error
        raise


def _is_outside(error: Exception) -> bool:
    said = getattr(error, "orig", error)  # SQLAlchemy's errors hold the driver's
    state = getattr(said, "sqlstate", None) or getattr(said, "pgcode", None)
    return state in _OUTSIDE or "no such savepoint" in str(error)
