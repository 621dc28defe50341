"""Effects in a database, exactly once: a mark that commits with them says that they have happened."""

from jobkit.inbox.dialect import POSTGRESQL, SQLITE, Dialect
from jobkit.inbox.inbox import Inbox, Outcome
from jobkit.inbox.transaction import Transaction

__all__ = ["POSTGRESQL", "SQLITE", "Dialect", "Inbox", "Outcome", "Transaction"]
