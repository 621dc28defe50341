from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from threading import Barrier, RLock
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.datasets import load_digits  # type: ignore[import-untyped]  # ships no types

from inference_service.adapters import onnx_model
from inference_service.adapters.datasets import Examples
from inference_service.adapters.onnx_model import ModelCache
from inference_service.adapters.registry import ModelCard, Registry
from inference_service.adapters.scikit import ScikitLearn
from inference_service.adapters.storage import ObjectStorage, open_storage
from inference_service.errors import BadInputs, DamagedModel, ModelBusy, StorageUnavailable, UnknownModel
from inference_service.handlers import Predictions, predict_batch
from jobkit.contracts.inference import PredictBatch, TrainModel

DIGITS = load_digits()
ROWS = DIGITS.data.astype(np.float32)
START = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def models() -> list[bytes]:
    """Three versions of a classifier of digits."""
    examples = Examples(ROWS[:1000], DIGITS.target[:1000])
    classifier = ScikitLearn().start(TrainModel(model="m", dataset="d.npz"), examples, np.arange(10))
    versions = []
    for _ in range(3):
        classifier.train(examples)
        versions.append(classifier.to_onnx())
    return versions


class CountingStorage:
    """Storage that counts how often each model's file is read."""

    def __init__(self, storage: ObjectStorage) -> None:
        self._storage = storage
        self.reads: list[str] = []
        self.put, self.keys, self.delete = storage.put, storage.keys, storage.delete
        self.listing = storage.listing

    def get(self, key: str, *, max_bytes: int | None = None) -> bytes | None:
        if key.endswith(".onnx"):
            self.reads.append(key)
        return self._storage.get(key, max_bytes=max_bytes)


class Publish(Protocol):
    def __call__(self, onnx: bytes, model: str = ..., hour: int = ...) -> str: ...


@pytest.fixture
def storage() -> CountingStorage:
    return CountingStorage(open_storage("memory:///"))


@pytest.fixture
def publish(storage: CountingStorage) -> Publish:
    def publish(onnx: bytes, model: str = "digits", hour: int = 0) -> str:
        card = ModelCard(
            model=model,
            digest=sha256(onnx).hexdigest(),
            accuracy=0.9,
            trained_at=START + timedelta(hours=hour),
            features=64,
            labels=list(range(10)),
            job_id=f"{model}-{hour}",
            dataset="digits.npz",
            dataset_digest="0" * 64,
        )
        return Registry(storage).publish(card, onnx).digest

    return publish


@pytest.fixture
def cache(storage: CountingStorage) -> ModelCache:
    return ModelCache(Registry(storage), 2)


def batch(rows: npt.ArrayLike = ROWS[:10], **fields: Any) -> PredictBatch:
    return PredictBatch(**{"model": "digits", "inputs": np.asarray(rows).tolist(), **fields})


def test_each_row_gets_its_label_with_a_confidence(cache: ModelCache, publish: Publish, models: list[bytes]) -> None:
    digest = publish(models[2])
    answer = predict_batch(batch(ROWS[1000:1500]), cache, max_rows=1000)
    assert answer.digest == digest
    labels = [prediction.label for prediction in answer.predictions]
    assert (np.array(labels) == DIGITS.target[1000:1500]).mean() > 0.85
    assert all(type(label) is int for label in labels)
    confidences = np.array([prediction.confidence for prediction in answer.predictions])
    assert ((confidences >= 0.1) & (confidences <= 1)).all()
    right = np.array(labels) == DIGITS.target[1000:1500]
    assert confidences[right].mean() > confidences[~right].mean()


def test_a_named_version_answers_though_a_newer_one_is_the_latest(
    cache: ModelCache, publish: Publish, models: list[bytes]
) -> None:
    old, new = publish(models[0]), publish(models[1], hour=1)
    assert predict_batch(batch(), cache, max_rows=10).digest == new
    assert predict_batch(batch(digest=old), cache, max_rows=10).digest == old


def test_a_new_latest_version_answers_from_the_next_call_on(
    cache: ModelCache, publish: Publish, models: list[bytes]
) -> None:
    publish(models[0])
    predict_batch(batch(), cache, max_rows=10)
    new = publish(models[1], hour=1)
    assert predict_batch(batch(), cache, max_rows=10).digest == new


def test_rows_of_another_width_are_refused_with_both_widths(
    cache: ModelCache, publish: Publish, models: list[bytes]
) -> None:
    publish(models[0])
    with pytest.raises(BadInputs, match="the rows have 63 features and model digits takes 64"):
        predict_batch(batch(ROWS[:2, :63]), cache, max_rows=10)


def test_a_number_beyond_32_bits_is_refused_with_its_row(
    cache: ModelCache, publish: Publish, models: list[bytes]
) -> None:
    publish(models[0])
    for value in (1e39, 1e300, -1e308):
        rows = ROWS[:3].astype(float)
        rows[1, 5] = value
        with pytest.raises(BadInputs, match="row 2 has a value that is not a finite 32-bit number"):
            predict_batch(batch(rows), cache, max_rows=10)


def test_more_rows_than_allowed_are_refused(cache: ModelCache) -> None:
    with pytest.raises(BadInputs, match="the batch has 10 rows and 9 are allowed"):
        predict_batch(batch(), cache, max_rows=9)


def test_a_model_that_was_never_published_is_refused(cache: ModelCache, publish: Publish, models: list[bytes]) -> None:
    with pytest.raises(UnknownModel, match="no model digits has been published"):
        cache.get("digits")
    publish(models[0])
    with pytest.raises(UnknownModel, match="has no version 0000"):
        cache.get("digits", "0" * 64)


def test_a_damaged_model_is_never_served(
    cache: ModelCache, publish: Publish, models: list[bytes], storage: CountingStorage
) -> None:
    digest = publish(models[0])
    storage.put(f"models/digits/{digest}.onnx", models[0][:-1])
    with pytest.raises(DamagedModel, match="does not have the digest"):
        cache.get("digits")
    with pytest.raises(DamagedModel, match="not a classifier in ONNX"):
        cache.get("digits", publish(b"no model", hour=1))
    storage.put("models/digits/latest.json", b'{"model": "dig')
    with pytest.raises(DamagedModel, match=r"latest\.json is not a model card"):
        cache.get("digits")


def test_a_storage_outage_is_not_taken_for_a_missing_model(
    cache: ModelCache, publish: Publish, models: list[bytes], storage: CountingStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = publish(models[0])
    cache.get("digits")

    def unavailable(key: str, *, max_bytes: int | None = None) -> bytes | None:
        raise StorageUnavailable("no storage")

    monkeypatch.setattr(storage, "get", unavailable)
    with pytest.raises(StorageUnavailable):
        cache.get("digits")
    assert cache.get("digits", digest)[0] == digest  # what is loaded needs no storage


def test_threads_that_want_the_same_model_load_it_once(
    cache: ModelCache, publish: Publish, models: list[bytes], storage: CountingStorage
) -> None:
    publish(models[0])
    together = Barrier(8, timeout=5)

    def ask(_: int) -> Predictions:
        together.wait()
        return predict_batch(batch(), cache, max_rows=10)

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(ask, range(8)))
    assert len(storage.reads) == 1
    assert all(answer == answers[0] for answer in answers)


def test_the_least_recently_used_model_makes_room(
    cache: ModelCache, publish: Publish, models: list[bytes], storage: CountingStorage
) -> None:
    a, b, c = (publish(onnx, hour=hour) for hour, onnx in enumerate(models))
    for digest in (a, b, a, c, a, b):  # c takes b's place, then b takes c's
        cache.get("digits", digest)
    assert [key.split("/")[-1].removesuffix(".onnx") for key in storage.reads] == [a, b, c, b]


def test_a_load_that_failed_is_tried_again(
    cache: ModelCache, publish: Publish, models: list[bytes], storage: CountingStorage
) -> None:
    digest = publish(models[0])
    storage.delete(f"models/digits/{digest}.onnx")
    with pytest.raises(DamagedModel, match=f"{digest}.onnx is gone, and models/digits/latest.json names it"):
        cache.get("digits")
    publish(models[0])
    assert cache.get("digits")[0] == digest


def test_a_load_that_hangs_holds_up_nobody_for_ever(
    cache: ModelCache, publish: Publish, models: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, waiting = publish(models[0]), publish(models[1], hour=1)
    cache.get("digits", loaded)
    monkeypatch.setattr(onnx_model, "LOAD_PATIENCE", 0.01)
    with cache._loading, ThreadPoolExecutor(1) as other:
        assert other.submit(cache.get, "digits", loaded).result()[0] == loaded
        with pytest.raises(ModelBusy):
            other.submit(cache.get, "digits", waiting).result()
    assert cache.get("digits", waiting)[0] == waiting


def test_a_time_limit_that_strikes_as_the_lock_is_taken_leaves_it_free(
    cache: ModelCache, publish: Publish, models: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Struck(BaseException):
        pass

    class StrikingLock:
        def __init__(self, lock: RLock) -> None:
            self.lock, self.release = lock, lock.release

        def acquire(self, timeout: float) -> bool:
            self.lock.acquire()
            raise Struck

    digest, lock = publish(models[0]), cache._loading
    monkeypatch.setattr(cache, "_loading", StrikingLock(lock))
    with pytest.raises(Struck):
        cache.get("digits")
    monkeypatch.undo()
    with ThreadPoolExecutor(1) as other:
        assert other.submit(cache.get, "digits").result()[0] == digest
