"""What a training needs from a machine learning library."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from inference_service.adapters.datasets import Examples, Features, Labels
from jobkit.contracts.inference import TrainModel


class Classifier(Protocol):
    """A classifier that learns epoch by epoch, and whose whole state fits into bytes.

    Attributes:
        after_batch: Called now and then in ``train``, with the part of the examples that are done, from 0 to 1. What it
            raises ends the epoch.
    """

    after_batch: Callable[[float], object]

    def train(self, examples: Examples) -> None:
        """Go over the examples once, in their order; ``TrainingDiverged`` if no finite weights are left."""
        ...

    def probabilities(self, features: Features) -> npt.NDArray[np.floating]:
        """The probability of each label, in sorted order, for each row. Rows x labels: ask for parts."""
        ...

    def to_checkpoint(self) -> bytes:
        """All that is needed to go on exactly here, without pickle."""
        ...

    def to_onnx(self, names: Sequence[str] | None = None) -> bytes:
        """The model for ``OnnxModel``, with the features' names; the same weights give the same bytes."""
        ...


class Learner(Protocol):
    """Makes classifiers.

    Attributes:
        identity: Library and versions: another version may not go on from this one's checkpoints.
        versions: The libraries that decide the weights, for the model's card.
    """

    identity: str
    versions: Mapping[str, str]

    def start(self, job: TrainModel, examples: Examples, labels: Labels) -> Classifier:
        """A classifier before its first epoch, its input scaling fitted to the examples."""
        ...

    def resume(self, checkpoint: bytes) -> Classifier:
        """The classifier that wrote the checkpoint; ``ValueError`` if the checkpoint is not usable."""
        ...
