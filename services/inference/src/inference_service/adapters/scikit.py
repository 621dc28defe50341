"""Training with scikit-learn. Importing this takes two seconds and some 200 MB: only a training needs it."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt
import sklearn  # type: ignore[import-untyped]  # ships no annotations, as do its companions below
import skops  # type: ignore[import-untyped]
import skops.io as skops_io  # type: ignore[import-untyped]
from sklearn.neural_network import MLPClassifier  # type: ignore[import-untyped]
from skops.io.exceptions import (  # type: ignore[import-untyped]
    UnsupportedTypeException,
    UntrustedTypesFoundException,
)
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # scikit-learn's own, for BLAS and OpenMP

from inference_service.adapters.classifier import Classifier
from inference_service.adapters.datasets import Examples, Features, Labels
from inference_service.adapters.export import classifier_graph
from inference_service.adapters.scaling import CELLS, Scaling
from inference_service.errors import TrainingDiverged
from jobkit.contracts.inference import TrainModel

#: skops trusts scikit-learn's estimators, but not the optimiser inside the network: arrays and numbers in a class.
TRUSTED = ["sklearn.neural_network._stochastic_optimizers.AdamOptimizer"]

#: Raise it when a training must not go on from a checkpoint that older code of ours has written.
_FORMAT = 2

#: What scikit-learn says of a part of an epoch, which is smaller than it expects.
_HARMLESS = ("The number of unique classes is greater than 50%", "Got `batch_size` less than 1 or larger than sample")


class ScikitLearn:
    """Learner of networks with one hidden layer behind a scaling in 64 bits.

    Limits the process's linear algebra to one thread, for good: a sum's last bits depend on how many threads share it,
    and a training that goes on where there are more cores must end with the same model.
    """

    identity = f"scikit-learn {sklearn.__version__}, skops {skops.__version__}, numpy {np.__version__}, {_FORMAT}"
    versions: Mapping[str, str] = MappingProxyType({"scikit-learn": sklearn.__version__, "numpy": np.__version__})

    def __init__(self) -> None:
        # Without `with`: one job that restored the limit would lift it for those in the other threads.
        threadpool_limits(limits=1)
        for text in _HARMLESS:  # the same
            warnings.filterwarnings("ignore", message=text, category=UserWarning)

    def start(self, job: TrainModel, examples: Examples, labels: Labels) -> Classifier:
        """See ``Learner``."""
        network = MLPClassifier(
            hidden_layer_sizes=(job.hidden_units,),
            learning_rate_init=job.learning_rate,
            batch_size=min(job.batch_size, len(examples.labels)),
            random_state=job.seed,
            shuffle=False,  # each call would repeat the same shuffle: the order comes with the examples
        )
        return ScikitClassifier(network, labels, Scaling.fit(examples.features))

    def resume(self, checkpoint: bytes) -> Classifier:
        """See ``Learner``."""
        try:
            network, labels, centre, spread = skops_io.loads(checkpoint, trusted=TRUSTED)
        except (
            BadZipFile,
            UntrustedTypesFoundException,
            UnsupportedTypeException,
            KeyError,
            TypeError,
            ValueError,
        ) as error:
            raise ValueError(f"not a checkpoint: {error}") from error
        return ScikitClassifier(network, labels, Scaling(centre, spread))


def _go_on(_: float) -> None:
    """Nobody asks after each batch."""


class ScikitClassifier:
    """Classifier of scikit-learn."""

    def __init__(self, network: Any, labels: Labels, scaling: Scaling) -> None:  # scikit-learn has no types to name
        self.after_batch: Callable[[float], object] = _go_on
        self._network = network
        self._labels = labels
        self._scaling = scaling

    def train(self, examples: Examples) -> None:
        """See ``Classifier``."""
        rows, step = len(examples.labels), self._rows_at_a_time()
        for start in range(0, rows, step):
            part = slice(start, start + step)
            self._learn(self._scaling.apply(examples.features[part]), self._places(examples.labels[part]))
            self.after_batch(min(1.0, (start + step) / rows))
        self._network.loss_curve_.clear()  # grows with each call, and goes into each checkpoint

    def _learn(self, scaled: npt.NDArray[np.float32], places: npt.NDArray[np.intp]) -> None:
        # Overflows are reported once, below, as what they mean.
        with np.errstate(all="ignore"):
            try:
                self._network.partial_fit(scaled, places, classes=np.arange(len(self._labels)))
            except ValueError as error:
                if "non-finite parameter weights" in str(error):
                    raise TrainingDiverged("the weights are not finite any more: lower the learning rate") from error
                raise

    def _rows_at_a_time(self) -> int:
        """Whole batches, so that the steps are the same; few, as scikit-learn makes a number of each row and label.

        And so that ``after_batch`` is called every second or so.
        """
        batch = int(self._network.batch_size)
        (hidden,) = self._network.hidden_layer_sizes
        widest = max(len(self._scaling.centre), int(hidden), len(self._labels))
        return max(batch, CELLS // widest // batch * batch)

    def _places(self, labels: Labels) -> npt.NDArray[np.intp]:
        return np.searchsorted(self._labels, labels)

    def probabilities(self, features: Features) -> npt.NDArray[np.floating]:
        """See ``Classifier``."""
        probabilities: npt.NDArray[np.floating] = self._network.predict_proba(self._scaling.apply(features))
        return probabilities

    def to_checkpoint(self) -> bytes:
        """See ``Classifier``."""
        return bytes(skops_io.dumps((self._network, self._labels, self._scaling.centre, self._scaling.spread)))

    def to_onnx(self, names: Sequence[str] | None = None) -> bytes:
        """See ``Classifier``."""
        network = self._network
        return classifier_graph(self._scaling, network.coefs_, network.intercepts_, self._labels, names)
