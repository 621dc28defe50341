"""What the inference service does: plain functions over adapters."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from time import monotonic
from typing import Protocol

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter

from inference_service.adapters.checkpoints import Checkpoint, Checkpoints, delete_checkpoints_before
from inference_service.adapters.classifier import Classifier, Learner
from inference_service.adapters.datasets import LARGEST, Dataset, Datasets, Examples, Labels
from inference_service.adapters.evaluation import Report, clearly_less, evaluate, in_parts, places_of, plain
from inference_service.adapters.onnx_model import ModelCache, OnnxModel
from inference_service.adapters.pace import Pace
from inference_service.adapters.registry import ModelCard, Registry
from inference_service.adapters.storage import Storage
from inference_service.errors import (
    BadDataset,
    BadInputs,
    DamagedModel,
    ExportMismatch,
    UnknownModel,
)
from jobkit.contracts.inference import PredictBatch, PromoteModel, RemoveOldCheckpoints, TrainModel
from jobkit.errors import MAX_RESULT

EXPORT_TOLERANCE = 1e-4  #: Probabilities in 32-bit floats differ by 1e-6 between libraries; a wrong export by far more.
SUM_TOLERANCE = 1e-3  #: A model's probabilities may be rounded; beyond this they are none.

#: Fields of a training that do not decide its weights: with others, it goes on from its checkpoints.
_NOT_WEIGHTS = {"epochs", "publish", "at_least", "on_changed_data"}

#: Fields of a training that decide which rows of a file are held out, and of what they are measured.
_SPLIT = ("seed", "holdout", "label_column", "group_column")

_log = logging.getLogger(__name__)


class Progress(Protocol):
    """Tells how far the job has come."""

    def __call__(self, percent: float, step: str = "", note: str = "") -> object:
        """``percent`` from 0 to 100, the step in progress, and what came of it."""
        ...


@dataclass(frozen=True)
class Prediction:
    """One row's label, and its probability from 0 to 1."""

    label: int | str
    confidence: float


@dataclass(frozen=True)
class Predictions:
    """The answers to a batch, in the order of its rows, and the version of the model that gave them."""

    model: str
    digest: str
    predictions: list[Prediction]


@dataclass(frozen=True)
class TrainedModel:
    """A published model.

    Attributes:
        accuracy: Part of the held-out rows that it labels rightly, from 0 to 1.
        resumed_from: The epoch that this run went on from; 0 if it started from the beginning.
        latest: Whether it is the model's latest version now.
        note: Why it is not.
        metrics: Of the held-out rows: macro averages, and the part of the most frequent label.
        warnings: What the data or the answers have that is odd.
        report: The storage key of the precision and recall of each label, and of the confusion matrix.
    """

    model: str
    digest: str
    accuracy: float
    epochs: int
    resumed_from: int
    latest: bool = True
    note: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    report: str = ""


@dataclass(frozen=True)
class PromotedModel:
    """The latest version of a model.

    Attributes:
        digest: The version that is the latest now.
        promoted: Whether it is the one that was asked for. Not if a job that was sent later has decided otherwise.
    """

    model: str
    digest: str
    promoted: bool


@dataclass(frozen=True)
class RemovedCheckpoints:
    """How many trainings have lost their checkpoints."""

    trainings: int


def predict_batch(job: PredictBatch, models: ModelCache, *, max_rows: int) -> Predictions:
    """Label each row of the batch.

    Raises:
        BadInputs: there are more than ``max_rows`` rows, or rows that the model cannot take, or answers that are too
            long for a job's record.
        UnknownModel, DamagedModel: the model cannot be served.
    """
    if len(job.inputs) > max_rows:
        raise BadInputs(f"the batch has {len(job.inputs)} rows and {max_rows} are allowed: split it")
    rows = np.asarray(job.inputs, dtype=np.float64)
    digest, model = models.get(job.model, job.digest)
    if job.columns is not None:
        rows = rows[:, _order(job.model, job.columns, model.names)]
    if rows.shape[1] != model.features:
        raise BadInputs(f"the rows have {rows.shape[1]} features and model {job.model} takes {model.features}")
    _refuse_rows(np.abs(rows).max(axis=1) <= LARGEST)
    labels, probabilities = model.predict(rows)
    _refuse_rows(np.isfinite(probabilities).all(axis=1))
    sums = probabilities.sum(axis=1, dtype=np.float64)
    if probabilities.min() < -SUM_TOLERANCE or np.abs(sums - 1).max() > SUM_TOLERANCE:
        raise DamagedModel(f"the probabilities of model {job.model} do not sum to 1: train the model again")
    confidences = np.clip(probabilities.max(axis=1) / sums, 0, 1)
    answers = zip(plain(labels), confidences.tolist(), strict=True)
    result = Predictions(job.model, digest, [Prediction(label, confidence) for label, confidence in answers])
    size = len(_PREDICTIONS.dump_json(result))
    if size > MAX_RESULT:
        fits = max(1, len(job.inputs) * MAX_RESULT // size)
        raise BadInputs(
            f"the answers to {len(job.inputs)} rows have {size:,} bytes, and a job's record keeps {MAX_RESULT:,}: "
            f"split the batch into parts of about {fits} rows"
        )
    return result


_PREDICTIONS = TypeAdapter(Predictions)


def _order(model: str, columns: Sequence[str], names: Sequence[str] | None) -> list[int]:
    """Where to find each of the model's features in a row of these columns."""
    if names is None:
        raise BadInputs(f"the batch names its columns, and model {model} was trained on a data set without names")
    unknown, missing = sorted(set(columns) - set(names)), sorted(set(names) - set(columns))
    faults = []
    if unknown:
        faults.append(f"model {model} has no feature {', '.join(map(repr, unknown[:5]))}")
    if missing:
        faults.append(f"the batch has no column {', '.join(map(repr, missing[:5]))}, which model {model} takes")
    if faults:
        raise BadInputs(", and ".join(faults))
    place = {column: number for number, column in enumerate(columns)}
    return [place[name] for name in names]


def _refuse_rows(usable: npt.NDArray[np.bool_]) -> None:
    if not usable.all():
        raise BadInputs(
            f"row {int(usable.argmin()) + 1} has a value that is not a finite 32-bit number, in the scale of what the "
            "model was trained on: replace it"
        )


def train_model(
    job: TrainModel,
    *,
    job_id: str,
    storage: Storage,
    datasets: Datasets,
    registry: Registry,
    learner: Learner,
    checkpoints_kept: int,
    time_slice: timedelta,
    progress: Progress,
    now: Callable[[], datetime],
    sent_at: datetime | None = None,
    time_limit: timedelta | None = None,
    stopping: Callable[[], bool] = lambda: False,
    saved: Callable[[], object] = lambda: None,
    max_bytes: int = 2**30,
) -> TrainedModel:
    """Train a classifier, check it, and publish it.

    Each epoch ends with a checkpoint. A run that was interrupted goes on from the last one, and ends with the same
    model as a run that was not: the data, the parameters and the seed decide all weights.

    Args:
        job: What to train.
        job_id: Names the checkpoints.
        storage: Where the checkpoints are.
        datasets: Where the data set is.
        registry: Where the model goes.
        learner: The library.
        checkpoints_kept: Epochs to keep.
        time_slice: After this the run ends with its epoch.
        progress: Called after each epoch.
        now: The time of day, for the card.
        sent_at: When the job was sent: it takes the place of no model whose job was sent later. None if that is not
            known, or is in the future: then its first run counts.
        time_limit: The job's; None if there is none.
        stopping: Asked after each batch or so: whether to hand the job back now.
        saved: Called after each checkpoint.
        max_bytes: Memory for the weights and a batch, as far as it is known beforehand.

    Raises:
        Snooze: the run has taken ``time_slice``, or the worker stops; the rest is for the next delivery.
        BadDataset, DatasetChanged, EpochTooLong, TrainingDiverged: nothing can be learned as things are.
        EpochTooSlow: an epoch took longer than those before it, and did not end.
        ExportMismatch: the exported model answers otherwise than the trained one; nothing was published.
    """
    pace = Pace(time_slice, time_limit, stopping, clock=lambda: monotonic())
    dataset = datasets.read(job.dataset, label_column=job.label_column, group_column=job.group_column)
    labels = dataset.labels
    _refuse_what_does_not_fit(job, dataset, len(labels), max_bytes)
    training, holdout = dataset.split(job.holdout, job.seed)
    inputs = job.model_dump(mode="json", exclude=_NOT_WEIGHTS)
    identity = {"job": inputs, "learner": learner.identity}
    checkpoints = Checkpoints.of(
        storage,
        job_id,
        identity,
        kept=checkpoints_kept,
        data=dataset.digest,
        restart=job.on_changed_data == "restart",
    )

    # A sender whose clock is ahead must not hold the place of the latest version until then.
    if sent_at is not None and sent_at > now():
        sent_at = None

    classifier, resumed_from = _resume(checkpoints, learner, job.epochs)
    if classifier is None:
        classifier = learner.start(job, training, labels)
    classifier.after_batch = pace.after_batch
    for epoch in range(resumed_from + 1, job.epochs + 1):
        with pace.epoch(epoch, len(training.labels)):
            classifier.train(_shuffled(training, job.seed, epoch))
            checkpoints.save(Checkpoint(epoch, classifier.to_checkpoint()))
            saved()
            accuracy = float((labels[places_of(classifier.probabilities, holdout.features)] == holdout.labels).mean())
            progress(100 * epoch / job.epochs, f"epoch {epoch}/{job.epochs}", f"accuracy {accuracy:.3f}")
        pace.hand_back_if_due(epoch, job.epochs)

    onnx = classifier.to_onnx(dataset.names)
    _check_export(onnx, classifier, holdout, labels)
    report = evaluate(places_of(classifier.probabilities, holdout.features), training, holdout, labels)
    card = ModelCard(
        model=job.model,
        digest=sha256(onnx).hexdigest(),
        accuracy=report.metrics["accuracy"],
        trained_at=now(),
        features=training.features.shape[1],
        labels=plain(labels),
        job_id=job_id,
        dataset=job.dataset,
        dataset_digest=dataset.digest,
        sent_at=sent_at,
        feature_names=None if dataset.names is None else list(dataset.names),
        parameters=job.model_dump(mode="json", exclude={"model", "dataset", "publish", "at_least", "on_changed_data"}),
        metrics=report.metrics,
        versions=dict(learner.versions),
        warnings=report.warnings,
    )
    note = _why_not_latest(job, card, registry, holdout)
    registry.publish(card, onnx, report=report, latest=not note)
    latest = registry.current(job.model)
    is_latest = latest is not None and latest.digest == card.digest
    if not is_latest and not note:
        note = "a job that was sent later has published or promoted another version"
    if note:
        _log.warning("model %s %s is not the latest version: %s", job.model, card.digest, note)
    checkpoints.clear()  # last, so that a crash before it costs no epoch
    return _trained(job, card, report, resumed_from, latest=is_latest, note="" if is_latest else note)


def _trained(
    job: TrainModel, card: ModelCard, report: Report, resumed_from: int, *, latest: bool, note: str
) -> TrainedModel:
    return TrainedModel(
        model=card.model,
        digest=card.digest,
        accuracy=card.accuracy,
        epochs=job.epochs,
        resumed_from=resumed_from,
        latest=latest,
        note=note,
        metrics=report.metrics,
        warnings=report.warnings,
        report=f"models/{card.model}/{card.digest}.report.json",
    )


def promote_model(
    job: PromoteModel, registry: Registry, *, job_id: str, sent_at: datetime, now: datetime
) -> PromotedModel:
    """Make a version the latest, unless a job that was sent later has decided otherwise.

    A moment in the future is taken for ``now``.

    Raises:
        UnknownModel, DamagedModel: the version cannot be served.
    """
    latest = registry.promote(job.model, job.digest, moment=min(sent_at, now), job_id=job_id)
    return PromotedModel(job.model, latest.digest, latest.digest == job.digest)


def remove_old_checkpoints(job: RemoveOldCheckpoints, storage: Storage, *, now: datetime) -> RemovedCheckpoints:
    """Delete the checkpoints of trainings that have saved none for ``job.days``."""
    return RemovedCheckpoints(delete_checkpoints_before(storage, now - timedelta(days=job.days)))


def _refuse_what_does_not_fit(job: TrainModel, dataset: Dataset, labels: int, max_bytes: int) -> None:
    rows, features = dataset.examples.features.shape
    weights = (features + 1) * job.hidden_units + (job.hidden_units + 1) * labels
    batch = min(rows, job.batch_size)
    # Ten copies of 4 bytes: weights, gradients, two moments of Adam, temporaries, and the checkpoint on its way. In a
    # batch: inputs twice, the hidden layer three times; scikit-learn makes 8 bytes, a bit and four numbers of a label.
    needed = 40 * weights + batch * (8 * features + 12 * job.hidden_units + 25 * labels)
    if needed > max_bytes:
        raise BadDataset(
            f"{job.dataset} has {features:,} features and {labels:,} labels: with {job.hidden_units} hidden units and "
            f"batches of {batch:,} rows that takes about {needed // 2**20:,} MiB, above {max_bytes // 2**20:,}. Use "
            "fewer hidden units or smaller batches, group rare labels, or raise INFERENCE_TRAINING_MAX_MIB"
        )


def _why_not_latest(job: TrainModel, card: ModelCard, registry: Registry, holdout: Examples) -> str:
    """Why the model is published as a candidate only; empty if it may be the latest."""
    if job.publish == "candidate":
        return "it is published as a candidate, as asked: send PromoteModel to make it the latest"
    if job.at_least is not None and card.accuracy < job.at_least:
        return f"its accuracy of {card.accuracy:.3f} is below the {job.at_least:g} that were asked for"
    rival = registry.current(job.model) if job.publish == "better" else None
    if rival is None or rival.job_id == card.job_id or not _is_worse(card, rival, holdout, registry):
        return ""
    return (
        f"its accuracy of {card.accuracy:.3f} is below that of the latest version {rival.digest}, "
        f'{rival.accuracy:.3f}: publish="latest" or PromoteModel replaces it all the same'
    )


def _is_worse(card: ModelCard, rival: ModelCard, holdout: Examples, registry: Registry) -> bool:
    """Whether the new model is less accurate than the latest version was, and no better on its own held-out rows.

    The accuracies alone may be of data that differ in difficulty. Of the rows held out from the new model, the latest
    version may have been trained on some, and if their labels are wrong, no model is better than another: so the new
    one has to show that it is better there.
    """
    rows = card.metrics["holdout_rows"]
    same_rows = rival.dataset_digest == card.dataset_digest and all(
        rival.parameters.get(name) == card.parameters.get(name) for name in _SPLIT
    )
    if same_rows:
        less = card.accuracy < rival.accuracy
    else:
        less = clearly_less(card.accuracy, rows, rival.accuracy, rival.metrics.get("holdout_rows", rows))
    if not less:
        return False
    try:
        model = OnnxModel(registry.read(rival.model, rival.digest))
    except (UnknownModel, DamagedModel):
        return False  # it answers nobody any more
    if same_rows or (rival.features, rival.feature_names) != (card.features, card.feature_names):
        return True
    if not clearly_less(card.metrics["most_frequent"], rows, card.accuracy, rows):
        return True  # it is no better than to give all rows one label
    named = np.concatenate([model.predict(part)[0] for part in in_parts(holdout.features, len(rival.labels))])
    return not clearly_less(float((named == holdout.labels).mean()), rows, card.accuracy, rows)


def _resume(checkpoints: Checkpoints, learner: Learner, epochs: int) -> tuple[Classifier | None, int]:
    for checkpoint in checkpoints.newest_first():
        if checkpoint.epoch > epochs:  # the job was edited to train less
            continue
        try:
            classifier = learner.resume(checkpoint.data)
        except ValueError as error:
            _log.warning("checkpoint of epoch %d is not usable: falling back: %s", checkpoint.epoch, error)
            continue
        _log.info("going on from the checkpoint of epoch %d", checkpoint.epoch)
        return classifier, checkpoint.epoch
    return None, 0


def _shuffled(examples: Examples, seed: int, epoch: int) -> Examples:
    # From the epoch's number, so that a resumed run needs no random state to see the rows in the same order.
    order = np.random.default_rng([seed, epoch]).permutation(len(examples.labels))
    return Examples(examples.features[order], examples.labels[order])


def _check_export(onnx: bytes, classifier: Classifier, holdout: Examples, labels: Labels) -> None:
    exported = OnnxModel(onnx)
    for rows in in_parts(holdout.features, len(labels)):
        answers, probabilities = exported.predict(rows)
        difference = float(np.abs(probabilities - classifier.probabilities(rows)).max())
        if not difference <= EXPORT_TOLERANCE:  # nor NaN
            raise ExportMismatch(
                f"the probabilities of the exported model are off by {difference:.2g}: nothing was published"
            )
        if not np.array_equal(answers, labels[probabilities.argmax(axis=1)]):
            raise ExportMismatch("the exported model names other labels than the trained one: nothing was published")
