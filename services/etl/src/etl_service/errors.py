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


class ColumnUnreadable(SourceUnreadable):
    """A column of the source holds what the declared type cannot be read from."""

    def __init__(self, column: str, reason: str) -> None:
        super().__init__(f"column {column!r} of the source {reason}")
        self.column = column


class TooManyRejects(PermanentError):
    """More rows are rejected than the job allows. The table keeps what it had."""


class NothingToLoad(PermanentError):
    """Without a row the table would be emptied, and the job does not allow that. The table keeps what it had."""


class DiskTooSmall(PermanentError):
    """The job's files alone fill the local disk. Give it more, or point ``TMPDIR`` to a larger one."""


class TransformTooLong(PermanentError):
    """The transform ran into its time limit twice: a third run would, too."""


class DatabaseRefuses(PermanentError):
    """The database answers with an error that no wait mends."""


class TableMismatch(DatabaseRefuses):
    """The table in the database cannot take these rows as it is."""


class SourceUnavailable(TransientError):
    """The web server did not deliver the source."""

    @property
    def delay(self) -> int | None:
        """The wait that the server asked for in milliseconds, as in ``dramatiq.errors.Retry``; None if it did not."""
        return None if self.retry_after is None else int(self.retry_after.total_seconds() * 1000)


class SourceChanged(TransientError):
    """The source changed while it was copied: a later copy is whole."""


class StorageTrouble(TransientError):
    """The object storage did not read or write this object, and may do so later."""


class StorageUnavailable(StorageTrouble):
    """The object storage is away or full, for every job."""


class DiskUnavailable(TransientError):
    """The local disk cannot be written to: another machine's may do."""


class DiskFull(DiskUnavailable):
    """The local disk has no room left for the job's files, as others have taken it."""


class DatabaseUnavailable(TransientError):
    """The database does not take the load now: it is away, or busy with other transactions."""


class DatabaseDown(DatabaseUnavailable):
    """The database is away, full, read-only or does not let the service in: no load can succeed now."""
