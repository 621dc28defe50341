"""A model in ONNX Runtime, and the cache of those that are loaded."""

import json
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from threading import Lock, RLock
from typing import cast

import numpy as np
import numpy.typing as npt

from inference_service.adapters.datasets import Features, Labels
from inference_service.adapters.registry import Registry
from inference_service.adapters.scaling import FARTHEST
from inference_service.errors import DamagedModel, ModelBusy

LOAD_PATIENCE = 20.0  #: Seconds to wait for another thread's load; below the prediction's time limit of 30.


class OnnxModel:
    """A classifier with the input ``features`` and the outputs ``label`` and ``probabilities``.

    Raises ``DamagedModel`` if the bytes are not such a model.

    Attributes:
        features: How many numbers a row has.
        names: Their names, if the data set had some.
    """

    def __init__(self, data: bytes) -> None:
        # It reports its use to its maker from its import on, unless this is set before. Imported here, so that this
        # module's own import changes no environment.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime  # type: ignore[import-untyped]  # ships neither annotations nor stubs

        options = onnxruntime.SessionOptions()
        # A worker runs one job per thread already: more threads inside would compete for the same cores.
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        try:
            self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
            (entry,) = self._session.get_inputs()
            outputs = {output.name: output.type for output in self._session.get_outputs()}
            _refuse_others(entry.name, entry.shape, outputs)
            self.features: int = int(entry.shape[1])
            self._kind = {"tensor(double)": np.float64, "tensor(float)": np.float32}[entry.type]
            self._outputs = ["label", "probabilities"] + (["reach"] if "reach" in outputs else [])
            names = self._session.get_modelmeta().custom_metadata_map.get("feature_names")
            self.names: list[str] | None = None if names is None else list(map(str, json.loads(names)))
        # The runtime's errors have no common base below Exception.
        except Exception as error:
            raise DamagedModel(f"this is not a classifier in ONNX: {error}: train the model again") from error

    def predict(self, features: Features) -> tuple[Labels, npt.NDArray[np.floating]]:
        """The label of each row, and the probability of each label (rows x labels). Safe to call from many threads.

        The probabilities of a row that the model's numbers cannot hold are NaN.
        """
        with np.errstate(over="ignore"):  # a model of an older version computes in 32 bits from its input on
            rows = features.astype(self._kind, copy=False)
        labels, probabilities, *reach = self._session.run(self._outputs, {"features": rows})
        usable = np.isfinite(rows).all(axis=1)
        if reach:
            usable &= reach[0] <= FARTHEST
        if not usable.all():
            probabilities[~usable] = np.nan
        return cast("tuple[Labels, npt.NDArray[np.floating]]", (labels, probabilities))


def _refuse_others(name: str, shape: Sequence[object], outputs: Mapping[str, str]) -> None:
    if name != "features" or len(shape) != 2 or isinstance(shape[0], int):  # a name stands for any number of rows
        raise ValueError(f"its input is {name!r} of shape {shape}, and not 'features' of any number of rows")
    for wanted in ("label", "probabilities"):
        if not outputs.get(wanted, "").startswith("tensor("):
            raise ValueError(f"it has no output {wanted!r}")


class ModelCache:
    """Models that are ready to answer: the least recently used one goes when there are too many.

    The pointer to the latest version is read each time, so a new one answers from the next call on.
    """

    def __init__(self, registry: Registry, size: int) -> None:
        self._registry = registry
        self._size = size
        self._models: OrderedDict[tuple[str, str], OnnxModel] = OrderedDict()
        self._lock = Lock()  # held for moments, so that a loading model holds up nobody whose model is there
        self._loading = RLock()  # one load at a time: threads that want the same model load it once

    def get(self, model: str, digest: str | None = None) -> tuple[str, OnnxModel]:
        """The digest and the model; the latest version unless ``digest`` names another.

        Raises:
            UnknownModel, DamagedModel: see ``Registry``.
            ModelBusy: another load took longer than ``LOAD_PATIENCE``.
        """
        version = digest or self._registry.latest(model).digest
        latest = digest is None
        if loaded := self._recall(model, version):
            return version, loaded
        try:
            if not self._loading.acquire(timeout=LOAD_PATIENCE):
                raise ModelBusy(f"another model has been loading for {LOAD_PATIENCE:.0f} s")
            loaded = self._recall(model, version)
            if loaded is None:
                loaded = OnnxModel(self._registry.read(model, version, latest=latest))
                self._keep(model, version, loaded)
            return version, loaded
        finally:
            # A time limit may strike after the lock was taken and before anything could say so. It knows its owner: the
            # release of one that this thread does not hold is refused.
            with suppress(RuntimeError):
                self._loading.release()

    def _recall(self, model: str, digest: str) -> OnnxModel | None:
        with self._lock:
            if (model, digest) in self._models:
                self._models.move_to_end((model, digest))
            return self._models.get((model, digest))

    def _keep(self, model: str, digest: str, loaded: OnnxModel) -> None:
        with self._lock:
            self._models[model, digest] = loaded
            while len(self._models) > self._size:
                self._models.popitem(last=False)
