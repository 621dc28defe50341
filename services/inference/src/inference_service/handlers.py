"""What the inference service does: plain functions over adapters."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from time import monotonic
from typing import Protocol

import numpy as np

from inference_service.adapters.checkpoints import Checkpoint, Checkpoints, delete_checkpoints_before
from inference_service.adapters.classifier import Classifier, Learner
from inference_service.adapters.datasets import Datasets, Examples, Labels
from inference_service.adapters.onnx_model import ModelCache, OnnxModel
from inference_service.adapters.registry import ModelCard, Registry
from inference_service.adapters.storage import Storage
from inference_service.errors import BadInputs, ExportMismatch
from jobkit.contracts.inference import PredictBatch, RemoveOldCheckpoints, TrainModel
from jobkit.errors import Snooze

EXPORT_TOLERANCE = 1e-4  #: Probabilities in 32-bit floats differ by 1e-6 between libraries; a wrong export by far more.

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
        resumed_from: The epoch that this run went on from; 0 if it began anew.
    """

    model: str
    digest: str
    accuracy: float
    epochs: int
    resumed_from: int


@dataclass(frozen=True)
class RemovedCheckpoints:
    """How many trainings have lost their checkpoints."""

    trainings: int


def predict_batch(job: PredictBatch, models: ModelCache, *, max_rows: int) -> Predictions:
    """Label each row of the batch.

    Raises:
        BadInputs: there are more than ``max_rows`` rows, or rows that the model cannot take.
        UnknownModel, DamagedModel: the model cannot be served.
    """
    if len(job.inputs) > max_rows:
        raise BadInputs(f"the batch has {len(job.inputs)} rows and {max_rows} are allowed: split it")
    with np.errstate(over="ignore"):  # what does not fit into 32 bits becomes infinite, and is refused below
        rows = np.asarray(job.inputs, dtype=np.float32)
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        raise BadInputs(f"row {int(finite.argmin()) + 1} has a value that is not a finite 32-bit number: replace it")
    digest, model = models.get(job.model, job.digest)
    if rows.shape[1] != model.features:
        raise BadInputs(f"the rows have {rows.shape[1]} features and model {job.model} takes {model.features}")
    labels, probabilities = model.predict(rows)
    confidences = probabilities.max(axis=1)
    answers = zip(_plain(labels), confidences, strict=True)
    return Predictions(job.model, digest, [Prediction(label, float(confidence)) for label, confidence in answers])


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
) -> TrainedModel:
    """Train a classifier, check it, and publish it as the model's latest version.

    Each epoch ends with a checkpoint. A run that was interrupted goes on from the last one, and ends with the same
    model as a run that was not: the data, the parameters and the seed decide all weights.

    Raises:
        Snooze: the run has taken ``time_slice``; the rest is for the next delivery.
        BadDataset, TrainingDiverged: nothing can be learned as things are.
        ExportMismatch: the exported model answers otherwise than the trained one; nothing was published.
    """
    began = monotonic()
    dataset = datasets.read(job.dataset)
    training, holdout = dataset.split(job.holdout, job.seed)
    inputs = job.model_dump(mode="json", exclude={"epochs"})  # more epochs of the same training may go on from fewer
    identity = {"job": inputs, "data": dataset.digest, "learner": learner.identity}
    checkpoints = Checkpoints.of(storage, job_id, identity, kept=checkpoints_kept)

    classifier, resumed_from = _resume(checkpoints, learner, job.epochs)
    if classifier is None:
        classifier = learner.start(job, training, dataset.labels)
    for epoch in range(resumed_from + 1, job.epochs + 1):
        classifier.train(_shuffled(training, job.seed, epoch))
        checkpoints.save(Checkpoint(epoch, classifier.to_checkpoint()))
        accuracy = classifier.accuracy(holdout)
        progress(100 * epoch / job.epochs, f"epoch {epoch}/{job.epochs}", f"accuracy {accuracy:.3f}")
        if epoch < job.epochs and monotonic() - began > time_slice.total_seconds():
            raise Snooze(1, f"epoch {epoch} of {job.epochs} is saved: the rest is for the next delivery")

    onnx = classifier.to_onnx()
    _check_export(onnx, classifier, holdout, dataset.labels)
    card = registry.publish(
        ModelCard(
            model=job.model,
            digest=sha256(onnx).hexdigest(),
            accuracy=classifier.accuracy(holdout),
            trained_at=now(),
            features=training.features.shape[1],
            labels=_plain(dataset.labels),
            job_id=job_id,
            dataset=job.dataset,
            dataset_digest=dataset.digest,
        ),
        onnx,
    )
    checkpoints.clear()  # last, so that a crash before it costs no epoch
    return TrainedModel(card.model, card.digest, card.accuracy, job.epochs, resumed_from)


def remove_old_checkpoints(job: RemoveOldCheckpoints, storage: Storage, *, now: datetime) -> RemovedCheckpoints:
    """Delete the checkpoints of trainings that have saved none for ``job.days``."""
    return RemovedCheckpoints(delete_checkpoints_before(storage, now - timedelta(days=job.days)))


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
    answers, probabilities = OnnxModel(onnx).predict(holdout.features)
    difference = float(np.abs(probabilities - classifier.probabilities(holdout.features)).max())
    if difference > EXPORT_TOLERANCE:
        raise ExportMismatch(
            f"the probabilities of the exported model are off by {difference:.2g}: nothing was published"
        )
    if not np.array_equal(answers, labels[probabilities.argmax(axis=1)]):
        raise ExportMismatch("the exported model names other labels than the trained one: nothing was published")


def _plain(labels: Labels) -> list[int | str]:
    return [str(label) if isinstance(label, str) else int(label) for label in labels]
