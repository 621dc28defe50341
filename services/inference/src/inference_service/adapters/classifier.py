"""What a training needs from a machine learning library."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from inference_service.adapters.datasets import Examples, Features, Labels
from jobkit.contracts.inference import TrainModel


class Classifier(Protocol):
    """A classifier that learns epoch by epoch, and whose whole state fits into bytes."""

    def train(self, examples: Examples) -> None:
        """Go over the examples once, in their order; ``TrainingDiverged`` if no finite weights are left."""
        ...

    def probabilities(self, features: Features) -> npt.NDArray[np.floating]:
        """The probability of each label, in sorted order, for each row."""
        ...

    def accuracy(self, examples: Examples) -> float:
        """Part of the examples that it labels rightly, from 0 to 1."""
        ...

    def to_checkpoint(self) -> bytes:
        """All that is needed to go on exactly here, without pickle."""
        ...

    def to_onnx(self) -> bytes:
        """The model for ``OnnxModel``, any number of rows at a time; the same weights give the same bytes."""
        ...


class Learner(Protocol):
    """Makes classifiers.

    Attributes:
        identity: Library and versions: another version may not go on from this one's checkpoints.
    """

    identity: str

    def start(self, job: TrainModel, examples: Examples, labels: Labels) -> Classifier:
        """A classifier before its first epoch, its input scaling fitted to the examples."""
        ...

    def resume(self, checkpoint: bytes) -> Classifier:
        """The classifier that wrote the checkpoint; ``ValueError`` if the checkpoint is not usable."""
        ...
