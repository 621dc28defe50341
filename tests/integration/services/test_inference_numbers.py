"""Numbers and labels that 32 bits do not hold, and what a training takes in memory."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from inference_lab import blobs, filled, predict, train
from onnx import TensorProto, helper
from sizes import size

from inference_service.adapters.onnx_model import OnnxModel
from inference_service.errors import BadDataset, BadInputs, DamagedModel

X, Y = blobs()


@pytest.mark.parametrize(
    "features",
    [
        np.c_[X, X[:, 0] * 1e-42],
        X * 1e-39,
        X * 1e-300,
        X * 1e90,
        X + 1.7e9,
        np.c_[X[:, :1] * 0 + 7.0, 1.7e15 + 60 * (X[:, :1] > 1.5)],  # a constant, and time stamps in microseconds
        np.c_[X, 10.0 ** np.where(Y == 1, -41, -43)],
    ],
)
def test_features_of_any_magnitude_are_learned_and_answered_with_probabilities(
    features: npt.NDArray[np.float64],
) -> None:
    storage = filled(features, Y)
    trained = train(storage, epochs=10)
    answers = predict(storage, features).predictions
    assert np.mean([one.label == label for one, label in zip(answers, Y, strict=True)]) > 0.9 < trained.accuracy
    assert all(0.5 <= one.confidence <= 1 for one in answers)


@pytest.mark.parametrize(
    "labels",
    [
        np.where(Y == 1, 4006381333931, 4006381333948),
        np.where(Y == 1, 2**31, 5),
        np.where(Y == 1, np.uint64(2**63 - 1), np.uint64(17)),
        np.where(Y == 1, -(2**63), 2**63 - 1),
        np.where(Y == 1, "naïve 模型", ""),
        np.where(Y == 1, "a\0b", "a\0c"),
        Y == 1,
    ],
)
def test_labels_come_back_as_they_were(labels: npt.NDArray[np.generic]) -> None:
    storage = filled(X, labels)
    train(storage, epochs=5)
    answers = [one.label for one in predict(storage, X).predictions]
    assert set(answers) == set(labels.tolist())
    assert np.mean([one == label for one, label in zip(answers, labels.tolist(), strict=True)]) > 0.9


def test_three_labels_have_probabilities_that_sum_to_one() -> None:
    labels = np.digitize(X[:, 0], [0.5, 2.5])
    storage = filled(X, labels)
    train(storage)
    assert all(1 / 3 <= one.confidence <= 1 for one in predict(storage, X * 1000).predictions)


def test_a_value_that_the_scale_of_the_training_cannot_hold_is_refused_with_its_row() -> None:
    storage = filled(X * 1e-42, Y)
    train(storage)
    rows = X[:3] * 1e-42
    rows[1, 2] = 1.0
    with pytest.raises(BadInputs, match="row 2 has a value that is not a finite 32-bit number"):
        predict(storage, rows)


def softmax(entry: str = "features", shape: tuple[int | None, ...] = (None, 2), label: str = "label") -> bytes:
    nodes = [
        helper.make_node("Softmax", [entry], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["probabilities"], [label], axis=1, keepdims=0),
    ]
    outputs = [
        helper.make_tensor_value_info(label, TensorProto.INT64, [shape[0], *shape[2:]]),
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, shape),
    ]
    features = helper.make_tensor_value_info(entry, TensorProto.FLOAT, shape)
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(helper.make_graph(nodes, "old", [features], outputs), opset_imports=opset, ir_version=8)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        (softmax(entry="x"), "its input is 'x'"),
        (softmax(shape=(1, 2)), "not 'features' of any number of rows"),
        (softmax(shape=(None, 2, 3)), "not 'features' of any number of rows"),
        (softmax(label="class"), "it has no output 'label'"),
    ],
)
def test_a_model_of_another_kind_is_refused_when_it_is_loaded(model: bytes, complaint: str) -> None:
    with pytest.raises(DamagedModel, match=complaint):
        OnnxModel(model)


def test_a_model_of_the_version_before_answers_what_fits_into_32_bits() -> None:
    """It took 32-bit numbers, and told no reach."""
    answers, probabilities = OnnxModel(softmax()).predict(np.array([[1.0, 3.0], [1e39, 0.0], [2, 1]]))
    assert answers[[0, 2]].tolist() == [1, 0]
    assert np.isnan(probabilities[1]).all()
    assert probabilities[0, 1] == pytest.approx(1 / (1 + np.exp(-2)))


def test_a_model_whose_probabilities_do_not_sum_to_one_is_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = filled(X, Y)
    train(storage)
    halves = lambda _self, rows: (np.zeros(len(rows), int), np.full((len(rows), 2), 0.4))  # noqa: E731
    monkeypatch.setattr("inference_service.adapters.onnx_model.OnnxModel.predict", halves)
    with pytest.raises(DamagedModel, match="do not sum to 1"):
        predict(storage, X[:2])


def test_answers_that_a_record_cannot_keep_are_refused_with_how_many_rows_fit() -> None:
    storage = filled(X, np.where(Y == 1, "a" * 900, "b" * 900))
    train(storage)
    with pytest.raises(BadInputs, match=r"split the batch into parts of about 27\d rows"):
        predict(storage, X[:500])
    assert len(predict(storage, X[:270]).predictions) == 270


def test_more_labels_and_features_than_fit_into_memory_are_refused_before_any_epoch() -> None:
    storage = filled(np.zeros((4000, 3)), np.arange(4000) % 2000)
    told: list[object] = []
    with pytest.raises(
        BadDataset, match=r"3 features and 2,000 labels: with 1024 hidden units .* above 16\. Use fewer"
    ):
        train(storage, hidden_units=1024, max_bytes=16 * 2**20, progress=lambda *one: told.append(one))
    assert told == []


FOUR_THOUSAND_LABELS = """
import resource, sys
import numpy as np
from inference_lab import filled, predict, train

rows = np.random.default_rng(0).normal(size=(8000, 6))
storage = filled(rows, np.arange(8000) % 4000)
train(filled(rows[:100], np.arange(100) % 4), epochs=1)  # loads what is loaded once
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 200 * 2**20,) * 2)
trained = train(storage, epochs=1, batch_size=500, hidden_units=8)
assert len(predict(storage, rows[:1000]).predictions) == 1000
"""

DIGEST = """
import numpy as np
from inference_lab import blobs, filled, train

features, labels = blobs(100)
print(train(filled(features, np.array(["left", "right"])[labels], feature_names=list("dbca")), epochs=1).digest)
"""


def python(program: str, **environment: str) -> subprocess.Popen[str]:
    harness = Path(__file__).parents[2] / "harness"
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(harness), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's /proc")
def test_four_thousand_labels_are_trained_within_200_mib() -> None:
    _, said = (process := python(FOUR_THOUSAND_LABELS)).communicate(timeout=120)
    assert process.returncode == 0, said


def test_the_hash_seed_of_a_process_does_not_change_the_model() -> None:
    """Two seeds in ``make test``, ten in ``make prove``: each loads scikit-learn, for two seconds."""
    digests = set()
    seeds = range(1, size(2, 10) + 1)
    for first in seeds[::2]:
        together = [python(DIGEST, PYTHONHASHSEED=str(seed)) for seed in seeds if seed in (first, first + 1)]
        for process in together:
            digest, said = process.communicate(timeout=120)
            assert process.returncode == 0, said
            digests.add(digest)
    assert len(digests) == 1
