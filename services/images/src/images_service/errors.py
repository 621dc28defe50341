"""What can be wrong with a source, an operation or the storage."""

from jobkit.errors import PermanentError, TransientError


class MissingSource(PermanentError):
    """The storage holds no object under the source's key; producers upload before they send."""


class BadKey(PermanentError):
    """The storage cannot hold an object under this key, or what lies there is no file."""


class SourceTooLarge(PermanentError):
    """The source has more bytes, pixels or frames than the settings allow."""


class UnknownFormat(PermanentError):
    """The source does not begin like any of the formats that are read here."""


class UnsupportedPixels(UnknownFormat):
    """The source is of a known format, but holds no picture that is read here: numbers, raw data, further channels."""


class MissingDecoder(UnknownFormat):
    """The format is known, but the installed libvips has no decoder for it."""


class BrokenImage(PermanentError):
    """The source begins like an image, but is truncated or damaged."""


class ImpossibleOperation(PermanentError):
    """The operation cannot be applied to this image."""


class StorageUnavailable(TransientError):
    """The storage did not answer, refused our login, is not there or is full."""


class StorageRefused(TransientError):
    """The storage refused access to one key. S3 answers so for a missing key, too, to whom may not list the bucket."""
