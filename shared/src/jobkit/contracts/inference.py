"""Jobs of the inference service: train a model, and predict with it."""

from typing import Annotated, Self

from pydantic import FailFast, Field, FiniteFloat, StringConstraints, model_validator

from jobkit.contracts.job import Job

MAX_ROWS = 1000  #: Rows in one job; the answers are recorded with the job, so they must stay small.
MAX_FEATURES = 4096  #: Numbers in one row: above it the data belongs into storage, not into a message.

#: A model's name is a folder in storage and a word on the command line.
ModelName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]

#: A published model, told apart by the SHA-256 of its ONNX file.
ModelDigest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]

#: A relative path in the service's storage; no part of it starts with a dot, so it cannot lead out.
DatasetKey = Annotated[
    str,
    StringConstraints(max_length=512, pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*\.npz$"),
]

# The first wrong number is enough: to note all that fit into a message takes hundreds of megabytes.
Row = Annotated[list[FiniteFloat], FailFast(), Field(min_length=1, max_length=MAX_FEATURES)]


class TrainModel(Job, queue="inference.training"):
    """Train a classifier on a data set and publish it as the model's latest version.

    The data set is a NumPy ``.npz`` file without pickled objects that holds two arrays: ``features`` (rows x features,
    numbers) and ``labels`` (one whole number or string per row). The same job on the same data gives the same model.
    """

    model: ModelName
    dataset: DatasetKey
    epochs: int = Field(default=20, ge=1, le=1000, description="Passes over the training rows.")
    learning_rate: float = Field(default=0.005, gt=0, le=1, description="Step size of Adam.")
    batch_size: int = Field(default=32, ge=1, le=10_000, description="Rows for one step of the optimiser.")
    hidden_units: int = Field(default=64, ge=1, le=1024, description="Width of the one hidden layer.")
    seed: int = Field(default=0, ge=0, lt=2**32, description="Decides the split, the start weights and the row order.")
    holdout: float = Field(default=0.2, gt=0, lt=1, description="Part of each label's rows kept back for the accuracy.")


class RemoveOldCheckpoints(Job, queue="inference.training"):
    """Delete the checkpoints of trainings that have saved none for a while.

    A training deletes its checkpoints when it has published its model, so these belong to trainings that died. Such a
    training can still be retried, and begins with its first epoch. The service runs this job each night.
    """

    days: int = Field(default=30, ge=1, le=3650, description="Days since the training's last checkpoint.")


class PredictBatch(Job, queue="inference"):
    """Predict a label with a confidence for each row of inputs.

    Without ``digest`` the model's latest version answers. All rows have the same number of features.
    """

    model: ModelName
    digest: ModelDigest | None = None
    inputs: Annotated[list[Row], FailFast()] = Field(min_length=1, max_length=MAX_ROWS)

    @model_validator(mode="after")
    def _rows_are_equally_long(self) -> Self:
        width = len(self.inputs[0])
        for number, row in enumerate(self.inputs, start=1):
            if len(row) != width:
                raise ValueError(f"row {number} has {len(row)} features and row 1 has {width}: make them equally long")
        return self
