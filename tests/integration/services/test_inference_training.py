import io
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime  # type: ignore[import-untyped]  # ships no types, as do its companions below
import pytest
import skops.io  # type: ignore[import-untyped]
from sklearn.datasets import load_digits  # type: ignore[import-untyped]
from threadpoolctl import threadpool_info, threadpool_limits  # type: ignore[import-untyped]

from inference_service.adapters.classifier import Classifier, Learner
from inference_service.adapters.datasets import Datasets, Examples, Labels
from inference_service.adapters.onnx_model import ModelCache
from inference_service.adapters.registry import Registry
from inference_service.adapters.scikit import ScikitClassifier, ScikitLearn
from inference_service.adapters.storage import ObjectStorage, open_storage
from inference_service.errors import DatasetChanged, ExportMismatch, StorageUnavailable, TrainingDiverged
from inference_service.handlers import Progress, TrainedModel, predict_batch, train_model
from jobkit.contracts.inference import PredictBatch, TrainModel
from jobkit.errors import Snooze

DIGITS = load_digits()
MORNING = datetime(2026, 3, 1, 6, 0, tzinfo=UTC)

Train = Callable[..., TrainedModel]  #: ``run`` with the storage of the test.


def npz(labels: npt.NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.savez(file, features=DIGITS.data[: len(labels)], labels=labels)
    return file.getvalue()


def stored(storage: ObjectStorage, key: str) -> bytes:
    data = storage.get(key)
    assert data is not None
    return data


class Killed(BaseException):
    """Ends a run where a worker's death would."""


def run(
    storage: ObjectStorage,
    job_id: str = "job-1",
    *,
    learner: Learner | None = None,
    progress: Progress = lambda *_: None,
    time_slice: float = 60.0,
    now: datetime = MORNING,
    **fields: Any,
) -> TrainedModel:
    defaults = {"model": "digits", "dataset": "digits.npz", "epochs": 4, "batch_size": 64, "learning_rate": 0.01}
    return train_model(
        TrainModel(**{**defaults, **fields}),
        job_id=job_id,
        storage=storage,
        datasets=Datasets(storage, max_bytes=2**24),
        registry=Registry(storage),
        learner=learner or ScikitLearn(),
        checkpoints_kept=2,
        time_slice=timedelta(seconds=time_slice),
        progress=progress,
        now=lambda: now,
    )


def filled_storage() -> ObjectStorage:
    storage = open_storage("memory:///")
    storage.put("digits.npz", npz(DIGITS.target))
    return storage


@pytest.fixture
def storage() -> ObjectStorage:
    return filled_storage()


@pytest.fixture
def train(storage: ObjectStorage) -> Train:
    return partial(run, storage)


@pytest.fixture(scope="module")
def uninterrupted() -> TrainedModel:
    """What the training comes to when nothing goes wrong."""
    return run(filled_storage())


def killed_after(epoch: int) -> Progress:
    def progress(percent: float, step: str = "", note: str = "") -> None:
        if step.startswith(f"epoch {epoch}/"):
            raise Killed

    return progress


def test_a_trained_model_labels_more_than_nine_in_ten_held_out_digits(train: Train, storage: ObjectStorage) -> None:
    trained = train()
    assert trained.accuracy > 0.9
    _, holdout = Datasets(storage, 2**24).read("digits.npz").split(0.2, seed=0)
    assert 350 < len(holdout.labels) < 370
    session = onnxruntime.InferenceSession(stored(storage, f"models/digits/{trained.digest}.onnx"))
    (answers,) = session.run(["label"], {"features": holdout.features})
    assert (answers == holdout.labels).mean() == pytest.approx(trained.accuracy)


def test_the_pointer_to_the_latest_model_says_where_it_comes_from(train: Train, storage: ObjectStorage) -> None:
    trained = train()
    card = json.loads(stored(storage, "models/digits/latest.json"))
    assert card["digest"] == trained.digest
    assert card["accuracy"] == trained.accuracy
    assert card["trained_at"] == "2026-03-01T06:00:00Z"
    assert card["features"] == 64
    assert card["labels"] == list(range(10))
    assert card["job_id"] == "job-1"
    assert card["dataset"] == "digits.npz"


def test_progress_is_told_after_each_epoch(train: Train) -> None:
    told: list[tuple[Any, ...]] = []
    train(epochs=2, progress=lambda *report: told.append(report))
    assert [(percent, step) for percent, step, _ in told] == [(50.0, "epoch 1/2"), (100.0, "epoch 2/2")]
    assert all(note.startswith("accuracy 0.") for *_, note in told)


def test_a_killed_training_goes_on_and_ends_with_the_very_same_model(train: Train, uninterrupted: TrainedModel) -> None:
    for epoch in (1, 3):
        with pytest.raises(Killed):
            train(progress=killed_after(epoch))
    resumed = train()
    assert (uninterrupted.resumed_from, resumed.resumed_from) == (0, 3)
    assert resumed.digest == uninterrupted.digest
    assert resumed.accuracy == uninterrupted.accuracy


def test_a_training_killed_between_its_last_epoch_and_its_model_trains_no_epoch_again(
    train: Train, storage: ObjectStorage
) -> None:
    with pytest.raises(Killed):
        train(progress=killed_after(4))
    told: list[tuple[Any, ...]] = []
    assert train(progress=lambda *report: told.append(report)).resumed_from == 4
    assert told == []


def test_a_training_above_its_time_slice_hands_itself_back_and_loses_no_epoch(
    train: Train, storage: ObjectStorage, uninterrupted: TrainedModel
) -> None:
    runs = 0
    while True:
        runs += 1
        try:
            trained = train(time_slice=0)
            break
        except Snooze:
            assert storage.keys("models") == []
    assert (runs, trained.resumed_from, trained.digest) == (4, 3, uninterrupted.digest)


@pytest.mark.parametrize("damage", ["truncated", "gone"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_the_model_is_the_same(
    train: Train, storage: ObjectStorage, uninterrupted: TrainedModel, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    with pytest.raises(Killed):
        train(progress=killed_after(3))
    *_, last = storage.keys("checkpoints")
    if damage == "truncated":
        storage.put(last, stored(storage, last)[:1000])
    else:
        storage.delete(last)
    with caplog.at_level(logging.WARNING):
        resumed = train()
    assert (resumed.resumed_from, resumed.digest) == (2, uninterrupted.digest)
    assert ("is damaged" in caplog.text) == (damage == "truncated")


@pytest.mark.parametrize("change", [{"seed": 1}, {"learning_rate": 0.02}, {"holdout": 0.3}])
def test_a_job_edited_after_it_died_does_not_go_on_from_what_other_parameters_made(
    train: Train, change: dict[str, Any]
) -> None:
    with pytest.raises(Killed):
        train(progress=killed_after(1), epochs=2)
    assert train(**change, epochs=2).resumed_from == 0


def test_a_data_set_replaced_after_a_kill_ends_the_training_and_a_retry_begins_again(
    train: Train, storage: ObjectStorage
) -> None:
    with pytest.raises(Killed):
        train(progress=killed_after(1), epochs=2)
    storage.put("digits.npz", npz(DIGITS.target[:500]))
    with pytest.raises(DatasetChanged, match=r"has changed since the training began, after epoch 1\. Retry"):
        train(epochs=2)
    assert storage.keys("checkpoints") == []
    assert train(epochs=2).resumed_from == 0


def test_a_training_on_changed_data_begins_again_once_if_the_job_says_so(train: Train, storage: ObjectStorage) -> None:
    restarting = partial(train, epochs=3, on_changed_data="restart")
    with pytest.raises(Killed):
        restarting(progress=killed_after(2))
    old = storage.keys("checkpoints")
    storage.put("digits.npz", npz(DIGITS.target[:500]))
    with pytest.raises(Killed):
        restarting(progress=killed_after(1))
    new = storage.keys("checkpoints")
    assert len(new) == 1, "those of the old data are deleted"
    assert not set(new) & set(old)
    with pytest.raises(Killed):
        restarting(progress=killed_after(2))  # goes on, and does not begin again each time
    storage.put("digits.npz", npz(DIGITS.target))
    with pytest.raises(DatasetChanged, match="has changed once more since the training began, after epoch 2"):
        restarting()


def test_a_checkpoint_that_holds_a_foreign_type_is_never_built() -> None:
    with pytest.raises(ValueError, match="Untrusted types"):
        ScikitLearn().resume(skops.io.dumps((logging.Formatter(), np.arange(10))))
    with pytest.raises(ValueError, match="not a checkpoint"):
        ScikitLearn().resume(b"not a zip file")


def test_no_checkpoint_is_left_when_the_training_has_finished(train: Train, storage: ObjectStorage) -> None:
    with pytest.raises(Killed):
        train(progress=killed_after(1))
    assert len(storage.keys("checkpoints")) == 1
    train()
    assert storage.keys("checkpoints") == []


def test_a_training_that_runs_again_does_not_take_the_place_of_a_newer_model(
    train: Train, storage: ObjectStorage
) -> None:
    first = train(now=MORNING, epochs=1)
    newer = train("job-2", now=MORNING + timedelta(hours=1), epochs=2)
    again = train(now=MORNING + timedelta(hours=2), epochs=1)
    assert again.digest == first.digest != newer.digest
    assert Registry(storage).latest("digits").digest == newer.digest
    # A new job with the same result, and with the wish for it.
    train("job-3", now=MORNING + timedelta(hours=3), epochs=1, publish="latest")
    assert Registry(storage).latest("digits").digest == first.digest


def test_a_crash_before_the_pointer_is_made_good_by_the_next_run(
    train: Train, storage: ObjectStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    train("job-0", epochs=1, seed=9)

    put = type(storage).put

    def put_all_but_the_pointer(self: ObjectStorage, key: str, data: bytes) -> None:
        if key.endswith("latest.json"):
            raise StorageUnavailable("no storage")
        put(self, key, data)

    monkeypatch.setattr(type(storage), "put", put_all_but_the_pointer)
    with pytest.raises(StorageUnavailable):
        train(now=MORNING + timedelta(hours=1), epochs=1)
    monkeypatch.undo()
    trained = train(now=MORNING + timedelta(hours=2), epochs=1)
    assert trained.resumed_from == 1
    assert Registry(storage).latest("digits").digest == trained.digest


def test_an_export_that_answers_otherwise_is_not_published(
    train: Train, storage: ObjectStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Flawed(ScikitLearn):
        def start(self, job: TrainModel, examples: Examples, labels: Labels) -> Classifier:
            classifier = super().start(job, examples, labels)
            monkeypatch.setattr(classifier, "probabilities", lambda features: np.full((len(features), 10), 0.1))
            return classifier

    with pytest.raises(ExportMismatch, match="nothing was published"):
        train(epochs=1, learner=Flawed())
    assert storage.keys("models") == []


def test_weights_that_leave_the_range_of_numbers_end_the_training_with_advice() -> None:
    examples = Examples(np.array([[1, 1], [2, 2], [3, 3], [4, 4]], np.float32), np.array([0, 1, 0, 1]))
    job = TrainModel(model="m", dataset="d.npz", hidden_units=2)
    classifier = ScikitLearn().start(job, examples, np.array([0, 1]))
    classifier.train(examples)
    assert isinstance(classifier, ScikitClassifier)
    classifier._network.coefs_[0][:] = np.inf
    with pytest.raises(TrainingDiverged, match="lower the learning rate"):
        classifier.train(examples)


def test_the_number_of_cores_does_not_change_the_sums() -> None:
    with threadpool_limits():  # puts back what the other tests had
        ScikitLearn()
        assert {pool["num_threads"] for pool in threadpool_info()} == {1}


def test_two_labels_that_are_words_are_learned_and_predicted(train: Train, storage: ObjectStorage) -> None:
    storage.put("words.npz", npz(np.where(DIGITS.target < 5, "low", "high")))
    trained = train(dataset="words.npz")
    assert trained.accuracy > 0.9
    job = PredictBatch(model="digits", inputs=DIGITS.data[:20].tolist())
    answers = predict_batch(job, ModelCache(Registry(storage), 1), max_rows=20).predictions
    right = sum(
        answer.label == ("low" if digit < 5 else "high") for answer, digit in zip(answers, DIGITS.target, strict=False)
    )
    assert right >= 18
    assert all(0.5 <= answer.confidence <= 1 for answer in answers)


def test_a_prediction_worker_does_not_load_the_training_libraries() -> None:
    program = """
import sys
import inference_service.handlers, inference_service.adapters
heavy = {"sklearn", "skl2onnx", "skops", "scipy"} & sys.modules.keys()
sys.exit(f"loaded: {heavy}" if heavy else 0)
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
