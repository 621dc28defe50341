"""The handwritten digits that ship inside scikit-learn: a model learns most of them and is asked about the rest."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from board import Board
from stage import Finding

from jobkit.contracts.inference import PredictBatch, TrainModel

MODEL = "digits"
DATASET = "datasets/digits.npz"
ASKED = 360  #: Digits that the training never sees, a fifth of the 1797.
LEAST_ACCURACY = 0.9  #: A single hidden layer gets some 0.97.


@dataclass(frozen=True)
class _Answers:
    digest: str
    labels: list[int]
    confidences: list[float]


class Digits:
    """The digits.

    Args:
        folder: The inference service's storage.
    """

    title = "Predictions"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._questions: list[list[float]] = []
        self._truth: list[int] = []
        self._learned = 0
        self._trained: dict[str, object] = {}
        self._answers: _Answers | None = None

    @property
    def place(self) -> Path:
        """The folder of the published model."""
        return self._folder / "models" / MODEL

    def prepare(self) -> None:
        """Upload what may be learned, and keep back what will be asked."""
        # Imported here, beside the start of the backing services: it takes a second.
        from sklearn.datasets import load_digits  # type: ignore[import-untyped]  # ships no types

        data = load_digits()
        order = np.random.default_rng(7).permutation(len(data.target))
        asked, learned = order[:ASKED], order[ASKED:]
        self._learned = len(learned)
        self._questions = data.data[asked].tolist()
        self._truth = data.target[asked].tolist()
        target = self._folder / DATASET
        target.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(target, features=data.data[learned], labels=data.target[learned])

    def run(self, board: Board) -> None:
        """Train and publish, then ask the published model."""
        training = TrainModel(model=MODEL, dataset=DATASET, epochs=40)
        title = f"train on {self._learned:,} digits"
        self._trained = json.loads(board.done(board.send(title, training)).result)
        digest = str(self._trained["digest"])
        batch = PredictBatch(model=MODEL, digest=digest, inputs=self._questions)
        answer = json.loads(board.done(board.send(f"read {ASKED} digits it has never seen", batch)).result)
        predictions = answer["predictions"]
        self._answers = _Answers(
            answer["digest"], [p["label"] for p in predictions], [p["confidence"] for p in predictions]
        )

    def headline(self) -> str:
        """How well it did, by its own account."""
        return f"accuracy {self._trained['accuracy']:.3f} after {self._trained['epochs']} epochs"

    def findings(self) -> Iterator[Finding]:
        """Compare every answer with the truth, which the service was never told."""
        held_out = float(str(self._trained["accuracy"]))
        yield Finding(f"the training's own hold-out: accuracy {held_out:.3f}", held_out > LEAST_ACCURACY)
        model = self.place / f"{self._trained['digest']}.onnx"
        yield Finding(
            f"the model is published as ONNX, {model.stat().st_size / 1024:.1f} KiB", model.stat().st_size > 0
        )
        if self._answers is None:
            yield Finding("the published model has answered", holds=False)
            return
        labels, confidences = self._answers.labels, self._answers.confidences
        right = sum(label == truth for label, truth in zip(labels, self._truth, strict=True))
        accuracy, confidence = right / ASKED, sum(confidences) / ASKED
        good = accuracy > LEAST_ACCURACY and all(0 <= c <= 1 for c in confidences)
        yield Finding(
            f"{right} of {ASKED} unseen digits are read rightly: accuracy {accuracy:.3f}, mean confidence "
            f"{confidence:.3f}",
            good and self._answers.digest == self._trained["digest"],
        )
