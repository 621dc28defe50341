"""A training of the inference service as its worker runs it, over a storage in memory."""

import io
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from inference_service.adapters.classifier import Learner
from inference_service.adapters.datasets import Datasets
from inference_service.adapters.onnx_model import ModelCache
from inference_service.adapters.registry import Registry
from inference_service.adapters.scikit import ScikitLearn
from inference_service.adapters.storage import ObjectStorage, Storage, open_storage
from inference_service.handlers import Predictions, Progress, TrainedModel, predict_batch, train_model
from jobkit.contracts.inference import PredictBatch, TrainModel

MORNING = datetime(2026, 3, 2, 6, tzinfo=UTC)


def blobs(rows: int = 600, seed: int = 0) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Two labels that a network tells apart nearly always, four features."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, rows)
    return random.normal(size=(rows, 4)) + labels[:, None] * 3, labels


def put(storage: Storage, key: str, features: npt.ArrayLike, labels: npt.ArrayLike, **more: npt.ArrayLike) -> None:
    """Upload a data set."""
    file = io.BytesIO()
    np.savez(file, features=features, labels=labels, **more)  # type: ignore[arg-type]  # none is allow_pickle
    storage.put(key, file.getvalue())


def filled(features: npt.ArrayLike, labels: npt.ArrayLike, **more: npt.ArrayLike) -> ObjectStorage:
    """A storage that holds ``d.npz``."""
    storage = open_storage("memory:///")
    put(storage, "d.npz", features, labels, **more)
    return storage


def train(
    storage: Storage,
    job_id: str = "job-1",
    *,
    learner: Learner | None = None,
    progress: Progress = lambda *_: None,
    time_slice: float = 60.0,
    time_limit: float | None = None,
    sent_at: datetime | None = None,
    now: datetime = MORNING,
    stopping: Callable[[], bool] = lambda: False,
    saved: Callable[[], object] = lambda: None,
    max_bytes: int = 2**30,
    **fields: Any,
) -> TrainedModel:
    """Run ``TrainModel`` once; ``fields`` are its own."""
    return train_model(
        TrainModel(**{"model": "m", "dataset": "d.npz", "epochs": 3, **fields}),
        job_id=job_id,
        storage=storage,
        datasets=Datasets(storage, max_bytes=2**28),
        registry=Registry(storage),
        learner=learner or ScikitLearn(),
        checkpoints_kept=2,
        time_slice=timedelta(seconds=time_slice),
        progress=progress,
        now=lambda: now,
        sent_at=sent_at,
        time_limit=None if time_limit is None else timedelta(seconds=time_limit),
        stopping=stopping,
        saved=saved,
        max_bytes=max_bytes,
    )


def predict(storage: Storage, inputs: npt.ArrayLike, **fields: Any) -> Predictions:
    """Run ``PredictBatch`` once; ``fields`` are its own."""
    job = PredictBatch(**{"model": "m", "inputs": np.asarray(inputs).tolist(), **fields})
    return predict_batch(job, ModelCache(Registry(storage), 2), max_rows=1000)
