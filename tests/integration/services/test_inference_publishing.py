"""Which version of a model answers: the one that was decided on last, by the moment when its job was sent."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from inference_lab import MORNING, blobs, filled, predict, put, train

from inference_service.adapters.registry import ModelCard, Registry
from inference_service.adapters.storage import ObjectStorage
from inference_service.errors import BadInputs, DamagedModel, StorageUnavailable, UnknownModel
from inference_service.handlers import TrainedModel, promote_model
from jobkit.contracts.inference import PromoteModel

X, Y = blobs()
NOISE = np.random.default_rng(1).integers(0, 2, 600)

HOUR = timedelta(hours=1)


@pytest.fixture
def storage() -> ObjectStorage:
    storage = filled(X, Y)
    put(storage, "more.npz", np.r_[X, X + 0.1], np.r_[Y, Y])
    put(storage, "noise.npz", X, NOISE)
    return storage


def latest(storage: ObjectStorage) -> str:
    return Registry(storage).latest("m").digest


def promote(storage: ObjectStorage, digest: str, *, hour: float, job_id: str = "promotion") -> bool:
    job = PromoteModel(model="m", digest=digest)
    now = MORNING + 100 * HOUR
    return promote_model(job, Registry(storage), job_id=job_id, sent_at=MORNING + hour * HOUR, now=now).promoted


def at(hour: float) -> dict[str, Any]:
    """The arguments of a training that was sent at that hour, and runs a day later."""
    return {"sent_at": MORNING + hour * HOUR, "now": MORNING + hour * HOUR + timedelta(days=1)}


def test_a_job_that_was_sent_earlier_does_not_displace_the_model_of_a_later_one(storage: ObjectStorage) -> None:
    newer = train(storage, "tuesday", dataset="more.npz", **at(24))
    older = train(storage, "monday", **at(0))
    assert newer.latest
    assert (older.latest, latest(storage)) == (False, newer.digest)
    assert "a job that was sent later has published" in older.note
    assert predict(storage, X[:2], digest=older.digest).digest == older.digest, "it can be asked by name"


def test_a_redelivery_after_days_with_its_record_lost_changes_nothing(storage: ObjectStorage) -> None:
    train(storage, "a", **at(0))
    train(storage, "b", **at(1))  # the same bytes
    newest = train(storage, "c", dataset="more.npz", **at(24))
    assert not train(storage, "a", **at(0)).latest
    assert latest(storage) == newest.digest
    assert Registry(storage).latest("m").dataset == "more.npz"


def test_a_run_that_was_not_told_when_it_was_sent_counts_from_its_first(storage: ObjectStorage) -> None:
    train(storage, "a")
    newest = train(storage, "b", dataset="more.npz", now=MORNING + HOUR)
    train(storage, "a", now=MORNING + 2 * HOUR)
    assert latest(storage) == newest.digest


def test_a_sender_whose_clock_is_ahead_does_not_stay_the_latest(storage: ObjectStorage) -> None:
    early = train(storage, "early", sent_at=MORNING + 10_000 * HOUR, now=MORNING)
    later = train(storage, "later", dataset="more.npz", **at(1))
    assert latest(storage) == later.digest
    train(storage, "early", sent_at=MORNING + 10_000 * HOUR, now=MORNING + 2 * HOUR)
    assert latest(storage) == later.digest, "its first run counts"
    assert promote(storage, early.digest, hour=10_000)
    assert train(storage, "last", dataset="more.npz", **at(101)).latest


def test_a_key_that_is_used_again_later_publishes_again(storage: ObjectStorage) -> None:
    first = train(storage, "nightly", **at(0))
    train(storage, "other", dataset="more.npz", **at(24))
    assert train(storage, "nightly", publish="latest", **at(48)).latest
    assert latest(storage) == first.digest


def test_a_promotion_moves_the_pointer_back_until_a_later_training(storage: ObjectStorage) -> None:
    old = train(storage, "a", **at(0)).digest
    bad = train(storage, "b", dataset="more.npz", **at(1)).digest
    assert promote(storage, old, hour=2)
    assert latest(storage) == old
    assert not train(storage, "b", dataset="more.npz", **at(1)).latest, "a redelivery of what was taken back"
    assert not train(storage, "c", dataset="more.npz", seed=3, **at(1.5)).latest, "sent before the decision"
    assert latest(storage) == old
    assert train(storage, "d", dataset="more.npz", **at(3)).latest
    assert latest(storage) == bad
    assert not promote(storage, old, hour=2), "the promotion, delivered again"
    assert latest(storage) == bad


def test_only_what_can_be_served_is_promoted(storage: ObjectStorage) -> None:
    digest = train(storage, **at(0)).digest
    with pytest.raises(UnknownModel, match="has no version 0000"):
        promote(storage, "0" * 64, hour=1)
    storage.put(f"models/m/{digest}.onnx", b"other bytes")
    with pytest.raises(DamagedModel, match="does not have the digest in its name"):
        promote(storage, digest, hour=1)


def test_a_candidate_answers_by_its_digest_until_it_is_promoted(storage: ObjectStorage) -> None:
    assert not train(storage, "a", publish="candidate", **at(0)).latest
    with pytest.raises(UnknownModel, match="no model m has been published as the latest"):
        latest(storage)
    stable = train(storage, "b", dataset="more.npz", **at(1))
    candidate = train(storage, "c", publish="candidate", **at(2))
    assert (candidate.latest, latest(storage)) == (False, stable.digest)
    assert "as a candidate, as asked: send PromoteModel" in candidate.note
    assert promote(storage, candidate.digest, hour=3)
    assert latest(storage) == candidate.digest


def test_a_worse_model_is_a_candidate_unless_the_job_asks_otherwise(storage: ObjectStorage) -> None:
    good = train(storage, "a", **at(0))
    worse = train(storage, "b", dataset="noise.npz", **at(1))
    assert worse.accuracy < 0.7 < good.accuracy
    assert (worse.latest, latest(storage)) == (False, good.digest)
    assert f"below that of the latest version {good.digest}" in worse.note
    assert train(storage, "c", dataset="noise.npz", publish="latest", **at(2)).latest


@pytest.mark.parametrize("seed", range(4))
def test_labels_that_were_shuffled_by_mistake_displace_no_good_model(storage: ObjectStorage, seed: int) -> None:
    good = train(storage, "a", **at(0))
    put(storage, "shuffled.npz", X, np.random.default_rng(seed).permutation(Y))
    assert not train(storage, "b", dataset="shuffled.npz", **at(1)).latest
    assert latest(storage) == good.digest


@pytest.mark.parametrize("dataset", ["d.npz", "noise.npz"])
def test_a_latest_version_whose_file_is_gone_is_replaced_by_any_other(storage: ObjectStorage, dataset: str) -> None:
    gone = train(storage, "a", **at(0))
    storage.delete(f"models/m/{gone.digest}.onnx")
    worse = train(storage, "b", dataset=dataset, epochs=1, learning_rate=1e-5, **at(1))
    assert worse.accuracy < gone.accuracy
    assert latest(storage) == worse.digest


def test_a_worse_model_with_other_features_is_a_candidate(storage: ObjectStorage) -> None:
    good = train(storage, "a", **at(0))
    put(storage, "fewer.npz", X[:, :1] / 3 + NOISE[:, None] * 9, Y)
    worse = train(storage, "b", dataset="fewer.npz", **at(1))
    assert 0.6 < worse.accuracy < 0.95 < good.accuracy
    assert (worse.latest, latest(storage)) == (False, good.digest)


def test_of_the_same_held_out_rows_any_mistake_more_is_worse(storage: ObjectStorage) -> None:
    put(storage, "hard.npz", X, np.where(np.arange(600) % 7, Y, NOISE))
    good = train(storage, "a", dataset="hard.npz", epochs=8, **at(0))
    worse = train(storage, "b", dataset="hard.npz", epochs=1, learning_rate=0.0001, **at(1))
    assert worse.accuracy < good.accuracy
    assert not worse.latest


def test_a_model_of_harder_data_replaces_one_that_is_no_better_on_them(storage: ObjectStorage) -> None:
    easy = train(storage, "a", **at(0))
    put(storage, "drifted.npz", X, np.where(np.arange(600) % 4, 1 - Y, NOISE))
    later = train(storage, "b", dataset="drifted.npz", **at(1))
    assert later.accuracy < 0.95 < easy.accuracy
    assert later.latest, "the latest version would label most of these rows wrongly"


def test_an_accuracy_below_what_was_asked_for_makes_a_candidate(storage: ObjectStorage) -> None:
    trained = train(storage, dataset="noise.npz", at_least=0.9, **at(0))
    assert not trained.latest
    assert "is below the 0.9 that were asked for" in trained.note
    assert train(storage, "b", at_least=0.9, **at(1)).latest


def test_whichever_of_two_trainings_of_one_moment_writes_last_the_later_one_is_the_latest(
    storage: ObjectStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The older one is held up between its look at the history and its pointer, the worst moment."""
    put_object = ObjectStorage.put
    later: list[TrainedModel] = []

    def put_after_the_other(self: ObjectStorage, key: str, data: bytes) -> None:
        if key.endswith("latest.json") and not later:
            monkeypatch.setattr(ObjectStorage, "put", put_object)
            later.append(train(storage, "later", dataset="more.npz", **at(1)))
        put_object(self, key, data)

    monkeypatch.setattr(ObjectStorage, "put", put_after_the_other)
    older = train(storage, "older", **at(0))
    assert later[0].digest != older.digest
    assert latest(storage) == later[0].digest
    assert not older.latest


@pytest.mark.parametrize("name", [".onnx", ".report.json", ".json", "latest.json"])
def test_a_crash_at_any_write_is_made_good_by_the_next_run(
    storage: ObjectStorage, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    train(storage, "before", dataset="more.npz", publish="latest", **at(0))
    put_object: Callable[[ObjectStorage, str, bytes], None] = ObjectStorage.put

    def put_or_die(self: ObjectStorage, key: str, data: bytes) -> None:
        if key.startswith("models/") and key.endswith(name):
            raise StorageUnavailable("no storage")
        put_object(self, key, data)

    monkeypatch.setattr(ObjectStorage, "put", put_or_die)
    with pytest.raises(StorageUnavailable):
        train(storage, "again", publish="latest", **at(1))
    monkeypatch.undo()
    trained = train(storage, "again", publish="latest", **at(1))
    assert trained.latest
    assert latest(storage) == trained.digest


def test_a_pointer_of_the_version_before_is_taken_into_the_history(storage: ObjectStorage) -> None:
    trained = train(storage, "old", dataset="more.npz", now=MORNING + HOUR)
    for key in storage.keys("models/m/history"):
        storage.delete(key)
    card = json.loads(storage.get("models/m/latest.json") or b"")
    new_fields = {"sent_at", "feature_names", "parameters", "metrics", "versions", "warnings"}
    old_card = json.dumps({name: value for name, value in card.items() if name not in new_fields}).encode()
    storage.put("models/m/latest.json", old_card)
    storage.put(f"models/m/{trained.digest}.json", old_card)
    assert not train(storage, "older", **at(0)).latest
    assert latest(storage) == trained.digest
    assert train(storage, "newer", publish="latest", **at(2)).latest


def test_a_damaged_pointer_does_not_stop_a_training_and_is_replaced(storage: ObjectStorage) -> None:
    train(storage, "a", **at(0))
    storage.put("models/m/latest.json", b'{"model": "m", "dig')
    assert train(storage, "b", dataset="more.npz", **at(1)).latest
    assert latest(storage) == train(storage, "b", dataset="more.npz", **at(1)).digest


def test_the_card_tells_parameters_metrics_versions_and_names(storage: ObjectStorage) -> None:
    put(storage, "named.npz", X, Y, feature_names=["a", "b", "c", "d"])
    trained = train(storage, "a", dataset="named.npz", seed=5, hidden_units=8, **at(0))
    card = ModelCard.model_validate_json(storage.get(f"models/m/{trained.digest}.json") or b"")
    assert (card.sent_at, card.trained_at) == (MORNING, MORNING + timedelta(days=1))
    assert card.feature_names == ["a", "b", "c", "d"]
    assert card.parameters["seed"] == 5
    assert card.parameters["hidden_units"] == 8
    assert card.metrics["accuracy"] == card.accuracy == trained.accuracy
    assert card.metrics["training_rows"] + card.metrics["holdout_rows"] == 600
    assert card.versions.keys() == {"scikit-learn", "numpy"}
    assert len(card.dataset_digest) == 64


def test_the_report_counts_each_label_and_each_confusion(storage: ObjectStorage) -> None:
    labels = np.where(Y == 1, "yes", np.where(NOISE == 1, "no", "never"))
    put(storage, "three.npz", X, labels)
    trained = train(storage, dataset="three.npz", epochs=5)
    report = json.loads(storage.get(trained.report) or b"")
    assert [one["label"] for one in report["labels"]] == ["never", "no", "yes"]
    cells = {(cell["label"], cell["predicted"]): cell["rows"] for cell in report["confusion"]}
    assert sum(cells.values()) == trained.metrics["holdout_rows"]
    for one in report["labels"]:
        given = sum(rows for (_, predicted), rows in cells.items() if predicted == one["label"])
        has = sum(rows for (label, _), rows in cells.items() if label == one["label"])
        right = cells.get((one["label"], one["label"]), 0)
        assert (one["support"], one["predicted"]) == (has, given)
        assert one["recall"] == pytest.approx(right / has)
        assert one["precision"] == pytest.approx(right / given if given else 0)
    right = sum(rows for (label, predicted), rows in cells.items() if label == predicted)
    assert trained.accuracy == pytest.approx(right / sum(cells.values()))


def test_a_model_that_tells_nothing_apart_and_rows_in_both_parts_are_warned_of(storage: ObjectStorage) -> None:
    rare = (np.arange(600) % 20 == 0).astype(int)
    put(storage, "rare.npz", np.ones((600, 1)), rare)
    warnings = train(storage, dataset="rare.npz").warnings
    assert "every held-out row is labelled 0: the model tells nothing apart" in warnings
    assert "120 of 120 held-out rows equal a training row, so the accuracy says little of others" in warnings
    groups = np.where(NOISE == 1, 99, np.arange(600) % 10)
    put(storage, "absent.npz", X, np.where(NOISE == 1, "odd", np.where(Y == 1, "yes", "no")), groups=groups)
    [absent] = [text for text in train(storage, "b", dataset="absent.npz").warnings if "in no held-out row" in text]
    assert absent == "labels in no held-out row, of which nothing is known (1): odd"


def test_columns_in_another_order_are_put_right_and_others_are_refused(storage: ObjectStorage) -> None:
    scale = np.array([1, -1, 10, 0.1])
    put(storage, "named.npz", X * scale, Y, feature_names=["a", "b", "c", "d"])
    train(storage, dataset="named.npz")
    straight = predict(storage, (X * scale)[:50])
    assert predict(storage, (X * scale)[:50, ::-1], columns=["d", "c", "b", "a"]) == straight
    assert predict(storage, (X * scale)[:50], columns=["a", "b", "c", "d"]) == straight
    with pytest.raises(BadInputs, match="model m has no feature 'e', and the batch has no column 'd'"):
        predict(storage, X[:2], columns=["a", "b", "c", "e"])
    with pytest.raises(BadInputs, match="model m has no feature 'label'"):
        predict(storage, np.c_[X, Y][:2], columns=["a", "b", "c", "d", "label"])
    with pytest.raises(BadInputs, match="the rows have 3 features and model m takes 4"):
        predict(storage, X[:2, :3])
    with pytest.raises(BadInputs, match="the batch has no column 'd', which model m takes"):
        predict(storage, X[:2, :3], columns=["a", "b", "c"])
    train(storage, "unnamed", publish="latest", now=MORNING + HOUR)
    with pytest.raises(BadInputs, match="was trained on a data set without names"):
        predict(storage, X[:2], columns=["a", "b", "c", "d"])
