"""What can be wrong with a training or a prediction, and whether it is worth another attempt."""

from jobkit.errors import PermanentError, TransientError


class StorageUnavailable(TransientError):
    """The object storage did not answer, or refused to."""


class ModelBusy(TransientError):
    """Another thread has been loading a model for too long."""


class UnknownModel(PermanentError):
    """No model of that name, or no version of that digest, has been published."""


class DamagedModel(PermanentError):
    """A published model's bytes are not what its digest or its pointer promises."""


class BadInputs(PermanentError):
    """The rows do not fit the model."""


class BadDataset(PermanentError):
    """The data set is missing, unreadable, too large, or cannot be learned from."""


class TrainingDiverged(PermanentError):
    """The weights have left the range of numbers."""


class ExportMismatch(PermanentError):
    """The exported model answers otherwise than the trained one, so it was not published."""
