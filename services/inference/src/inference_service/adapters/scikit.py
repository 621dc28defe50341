"""Training with scikit-learn. Importing this takes two seconds and some 200 MB: only a training needs it."""

from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import sklearn  # type: ignore[import-untyped]  # ships no annotations, as do its companions below
import skops  # type: ignore[import-untyped]
import skops.io as skops_io  # type: ignore[import-untyped]
from skl2onnx import to_onnx  # type: ignore[import-untyped]
from skl2onnx.common.data_types import FloatTensorType  # type: ignore[import-untyped]
from sklearn.neural_network import MLPClassifier  # type: ignore[import-untyped]
from sklearn.pipeline import Pipeline  # type: ignore[import-untyped]
from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]
from skops.io.exceptions import (  # type: ignore[import-untyped]
    UnsupportedTypeException,
    UntrustedTypesFoundException,
)
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # scikit-learn's own, for BLAS and OpenMP

from inference_service.adapters.classifier import Classifier
from inference_service.adapters.datasets import Examples, Features, Labels
from inference_service.errors import TrainingDiverged
from jobkit.contracts.inference import TrainModel

#: skops trusts scikit-learn's estimators, but not the optimiser inside the network: arrays and numbers in a class.
TRUSTED = ["sklearn.neural_network._stochastic_optimizers.AdamOptimizer"]


class ScikitLearn:
    """Learner of networks with one hidden layer behind a standard scaling.

    Limits the process's linear algebra to one thread, for good: a sum's last bits depend on how many threads share it,
    and a training that goes on where there are more cores must end with the same model.
    """

    identity = f"scikit-learn {sklearn.__version__}, skops {skops.__version__}, numpy {np.__version__}"

    def __init__(self) -> None:
        # Without `with`: one job that restored the limit would lift it for those in the other threads.
        threadpool_limits(limits=1)

    def start(self, job: TrainModel, examples: Examples, labels: Labels) -> Classifier:
        """See ``Learner``."""
        network = MLPClassifier(
            hidden_layer_sizes=(job.hidden_units,),
            learning_rate_init=job.learning_rate,
            batch_size=min(job.batch_size, len(examples.labels)),
            random_state=job.seed,
            shuffle=False,  # each call would start the same shuffle anew: the order comes with the examples
        )
        scaler = StandardScaler().fit(examples.features)
        return ScikitClassifier(Pipeline([("scale", scaler), ("classify", network)]), labels)

    def resume(self, checkpoint: bytes) -> Classifier:
        """See ``Learner``."""
        try:
            pipeline, labels = skops_io.loads(checkpoint, trusted=TRUSTED)
        except (BadZipFile, UntrustedTypesFoundException, UnsupportedTypeException, KeyError, TypeError) as error:
            raise ValueError(f"not a checkpoint: {error}") from error
        return ScikitClassifier(pipeline, labels)


class ScikitClassifier:
    """Classifier of scikit-learn."""

    def __init__(self, pipeline: Any, labels: Labels) -> None:  # scikit-learn has no types to name
        self._pipeline = pipeline
        self._labels = labels

    def train(self, examples: Examples) -> None:
        """See ``Classifier``."""
        # Overflows are reported once, below, as what they mean.
        with np.errstate(all="ignore"):
            scaled = self._pipeline["scale"].transform(examples.features)
            try:
                self._pipeline["classify"].partial_fit(scaled, examples.labels, classes=self._labels)
            except ValueError as error:
                if "non-finite parameter weights" in str(error):
                    raise TrainingDiverged("the weights are not finite any more: lower the learning rate") from error
                raise

    def probabilities(self, features: Features) -> npt.NDArray[np.floating]:
        """See ``Classifier``."""
        probabilities: npt.NDArray[np.floating] = self._pipeline.predict_proba(features)
        return probabilities

    def accuracy(self, examples: Examples) -> float:
        """See ``Classifier``."""
        return float((self._pipeline.predict(examples.features) == examples.labels).mean())

    def to_checkpoint(self) -> bytes:
        """See ``Classifier``."""
        return bytes(skops_io.dumps((self._pipeline, self._labels)))

    def to_onnx(self) -> bytes:
        """See ``Classifier``."""
        width = self._pipeline["scale"].n_features_in_
        model = to_onnx(
            self._pipeline,
            initial_types=[("features", FloatTensorType([None, width]))],
            options={id(self._pipeline): {"zipmap": False}},  # probabilities as an array, not as a list of dictionaries
        )
        return bytes(model.SerializeToString(deterministic=True))
