"""The outside world of the inference service: storage, data sets, checkpoints, models, and the libraries for them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from inference_service.adapters.classifier import Learner
from inference_service.adapters.datasets import Datasets
from inference_service.adapters.onnx_model import ModelCache
from inference_service.adapters.registry import Registry
from inference_service.adapters.storage import Storage, open_storage
from inference_service.settings import InferenceSettings


@dataclass(frozen=True)
class Resources:
    """What a worker process keeps open for its jobs."""

    settings: InferenceSettings
    storage: Storage
    datasets: Datasets
    registry: Registry
    models: ModelCache

    def learner(self) -> Learner:
        """The machine learning library."""
        # Imported at the first training: prediction workers would start two seconds later and hold 200 MB in vain.
        from inference_service.adapters.scikit import ScikitLearn

        return ScikitLearn()


@contextmanager
def open_resources(settings: InferenceSettings) -> Iterator[Resources]:
    """Open the storage; a remote one is first asked when a job needs it.

    Raises:
        SettingsError: the storage URL is not usable, or its local folder cannot be written to.
    """
    storage = open_storage(settings.storage_url)
    registry = Registry(storage)
    yield Resources(
        settings=settings,
        storage=storage,
        datasets=Datasets(storage, max_bytes=settings.dataset_max_mib * 2**20),
        registry=registry,
        models=ModelCache(registry, settings.model_cache_size),
    )
