"""How good a model is on rows that it was not trained on."""

from collections.abc import Callable, Sequence
from math import sqrt

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from inference_service.adapters.datasets import Examples, Features, Labels
from inference_service.adapters.scaling import CELLS
from inference_service.adapters.splits import hashes

#: Standard errors of a difference that chance exceeds in one of twenty cases (one-sided).
_BEYOND_CHANCE = 1.645

_NAMED = 5  #: Labels that a warning names; the report has all.


class LabelReport(BaseModel):
    """How one label fares on the held-out rows.

    Attributes:
        precision: Of the rows that were given this label, the part that has it; 0 if none was given it.
        recall: Of the rows that have this label, the part that was given it; 0 if none has it.
        support: Held-out rows that have it.
        predicted: Held-out rows that were given it.
    """

    model_config = ConfigDict(frozen=True)

    label: int | str
    precision: float
    recall: float
    support: int
    predicted: int


class Confusion(BaseModel):
    """How many held-out rows of one label were given which one."""

    model_config = ConfigDict(frozen=True)

    label: int | str
    predicted: int | str
    rows: int


class Report(BaseModel):
    """The whole evaluation, stored beside the model.

    Attributes:
        confusion: The cells of the confusion matrix that are not 0.
    """

    model_config = ConfigDict(frozen=True)

    metrics: dict[str, float]
    labels: list[LabelReport]
    confusion: list[Confusion]
    warnings: list[str]


def places_of(probabilities: Callable[[Features], npt.NDArray[np.floating]], rows: Features) -> npt.NDArray[np.intp]:
    """The place of the most probable label of each row; a part of the rows at a time, as there may be many labels."""
    found = [probabilities(part).argmax(axis=1) for part in in_parts(rows, 1)]
    return np.concatenate(found) if found else np.zeros(0, dtype=np.intp)


def in_parts(rows: Features, labels: int) -> list[Features]:
    """The rows in parts that make at most ``CELLS`` numbers, for rows of that many labels."""
    step = max(1, CELLS // max(1024, rows.shape[1], labels))
    return [rows[start : start + step] for start in range(0, len(rows), step)]


def evaluate(places: npt.NDArray[np.intp], training: Examples, holdout: Examples, labels: Labels) -> Report:
    """Compare the labels that were given to the held-out rows (by their places) with those that they have."""
    names = plain(labels)
    truth = np.searchsorted(labels, holdout.labels)
    count = len(names)
    right = places == truth
    support = np.bincount(truth, minlength=count)
    predicted = np.bincount(places, minlength=count)
    hits = np.bincount(truth[right], minlength=count)
    precision = hits / np.maximum(predicted, 1)
    recall = hits / np.maximum(support, 1)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    measured = support > 0
    metrics = {
        "accuracy": float(right.mean()),
        "most_frequent": float(support.max() / len(truth)),
        "macro_precision": float(precision[measured].mean()),
        "macro_recall": float(recall[measured].mean()),
        "macro_f1": float(f1[measured].mean()),
        "training_rows": float(len(training.labels)),
        "holdout_rows": float(len(truth)),
    }
    pairs, rows = np.unique(truth * count + places, return_counts=True)
    return Report(
        metrics=metrics,
        labels=[
            LabelReport(label=name, precision=float(p), recall=float(r), support=int(s), predicted=int(n))
            for name, p, r, s, n in zip(names, precision, recall, support, predicted, strict=True)
        ],
        confusion=[
            Confusion(label=names[pair // count], predicted=names[pair % count], rows=int(n))
            for pair, n in zip(pairs.tolist(), rows, strict=True)
        ],
        warnings=list(_warnings(names, support, predicted, training, holdout)),
    )


def _warnings(
    names: Sequence[int | str],
    support: npt.NDArray[np.intp],
    predicted: npt.NDArray[np.intp],
    training: Examples,
    holdout: Examples,
) -> list[str]:
    found = []
    given = np.flatnonzero(predicted)
    if len(given) == 1:
        found.append(f"every held-out row is labelled {_short(names[given[0]])}: the model tells nothing apart")
    elif len(never := np.flatnonzero((predicted == 0) & (support > 0))):
        found.append(f"labels that no held-out row was given ({len(never)}): {_some(names, never)}")
    if len(absent := np.flatnonzero(support == 0)):
        found.append(f"labels in no held-out row, of which nothing is known ({len(absent)}): {_some(names, absent)}")
    both = int(np.isin(hashes(holdout.features), hashes(training.features)).sum())
    if both:
        found.append(
            f"{both} of {len(holdout.labels)} held-out rows equal a training row, so the accuracy says little of others"
        )
    return found


def _some(names: Sequence[int | str], places: npt.NDArray[np.intp]) -> str:
    more = " …" if len(places) > _NAMED else ""
    return ", ".join(_short(names[place]) for place in places[:_NAMED]) + more


def _short(name: int | str) -> str:
    text = str(name)
    return text if len(text) <= 50 else f"{text[:50]}…"


def clearly_less(accuracy: float, rows: float, other: float, other_rows: float) -> bool:
    """Whether an accuracy is below another by more than chance explains (test of two proportions, 5 %)."""
    pooled = (accuracy * rows + other * other_rows) / (rows + other_rows)
    error = sqrt(pooled * (1 - pooled) * (1 / rows + 1 / other_rows))
    return other - accuracy > _BEYOND_CHANCE * error


def plain(labels: Labels) -> list[int | str]:
    """Labels as JSON has them."""
    return [str(label) if isinstance(label, str) else int(label) for label in labels]
