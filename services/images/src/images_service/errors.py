"""What can be wrong with a source, an operation or the storage."""

from jobkit.errors import PermanentError, TransientError


class MissingSource(PermanentError):
    """The storage holds no object under the source's key; producers upload before they send."""


class BadKey(PermanentError):
    """The storage cannot hold an object under this key."""


class SourceTooLarge(PermanentError):
    """The source has more bytes or more pixels than the settings allow."""


class UnknownFormat(PermanentError):
    """The source does not begin like any of the formats that are read here, or has channels beside its colours."""


class BrokenImage(PermanentError):
    """The source begins like an image, but is truncated or damaged."""


class ImpossibleOperation(PermanentError):
    """The operation cannot be applied to this image."""


class StorageUnavailable(TransientError):
    """The storage did not answer, refused the request or is full."""
