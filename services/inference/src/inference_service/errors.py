"""What can be wrong with a training or a prediction, and whether it is worth another attempt."""

from jobkit.errors import PermanentError, TransientError


class StorageUnavailable(TransientError):
    """The object storage did not answer, takes our login no more, or answered what makes no sense."""


class StorageMissing(StorageUnavailable):
    """The bucket or the folder itself is not there."""


class StorageFull(StorageUnavailable):
    """The storage has no room."""


class StorageForbidden(TransientError):
    """The storage does not let us read or write one key. S3 also says so of a key that is not there."""


class UnusableKey(PermanentError):
    """No object can have that key in this storage, or what has it is no file."""


class ModelBusy(TransientError):
    """Another thread has been loading a model for too long."""


class UnknownModel(PermanentError):
    """No model of that name, or no version of that digest, has been published."""


class DamagedModel(PermanentError):
    """A published model's bytes are not what its digest or its pointer promises."""


class BadInputs(PermanentError):
    """The rows do not fit the model, or the answers do not fit into a job's record."""


class BadDataset(PermanentError):
    """The data set is missing, unreadable, too large, or cannot be learned from."""


class DatasetChanged(PermanentError):
    """The data set is another one than the training began with."""


class EpochTooLong(PermanentError):
    """One pass over the training rows takes longer than a job may run."""


class EpochTooSlow(TransientError):
    """An epoch took much longer than the ones before it, and did not end in time."""


class TrainingDiverged(PermanentError):
    """The weights have left the range of numbers."""


class ExportMismatch(PermanentError):
    """The exported model answers otherwise than the trained one, so it was not published."""
