"""What can go wrong in this service: permanent errors need another job or source, transient ones only time."""

from jobkit.errors import PermanentError, TransientError


class SourceMissing(PermanentError):
    """There is no object under that key, or no page under that URL."""


class SourceForbidden(PermanentError):
    """The URL is not one that the operator has allowed."""


class SourceTooLarge(PermanentError):
    """The source has more bytes than ``ETL_MAX_BYTES``."""


class SourceUnreadable(PermanentError):
    """The source as a whole is not what the job says: wrong format, encoding or columns, or cut off."""


class TableMismatch(PermanentError):
    """The table in the database cannot take these rows as it is."""


class SourceUnavailable(TransientError):
    """The web server did not deliver the source."""


class StorageUnavailable(TransientError):
    """The object storage did not read or write."""


class DiskUnavailable(TransientError):
    """The local disk is full or cannot be written to: another machine's may do."""


class DatabaseUnavailable(TransientError):
    """The database is down, locked, full or does not let the service in."""
