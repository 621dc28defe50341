"""The actors of the inference service."""

from datetime import UTC, datetime, timedelta

from inference_service import handlers
from inference_service.adapters import Resources, open_resources
from inference_service.errors import StorageUnavailable
from inference_service.handlers import Predictions, PromotedModel, RemovedCheckpoints, TrainedModel
from jobkit.breaker.breaker import CircuitBreaker
from jobkit.context import Context
from jobkit.contracts.inference import PredictBatch, PromoteModel, RemoveOldCheckpoints, TrainModel
from jobkit.errors import TimeLimitExceeded, TransientError
from jobkit.retry import exponential
from jobkit.schedule import cron
from jobkit.service import Service
from jobkit.time import minutes, seconds

service = Service("inference", lifespan=open_resources)

#: A training that ran into its limit goes on from its last epoch, and a storage that hangs may answer next time.
_WORTH_ANOTHER_ATTEMPT = (TransientError, TimeLimitExceeded)

#: Two: predictions go on while trainings fail, for want of room or for data that are away.
STORAGE = CircuitBreaker("storage", trips_on=StorageUnavailable)
TRAINING_STORAGE = CircuitBreaker("training storage", trips_on=StorageUnavailable)


@service.actor(
    PredictBatch,
    retry=exponential(cap=60, attempts=8, retry_on=_WORTH_ANOTHER_ATTEMPT),
    time_limit=seconds(30),
    breaker=STORAGE,
)
def predict_batch(job: PredictBatch, context: Context[Resources]) -> Predictions:
    """Label each row of a batch."""
    resources = context.resources
    return handlers.predict_batch(job, resources.models, max_rows=resources.settings.max_rows)


@service.actor(
    PromoteModel,
    retry=exponential(cap=60, attempts=8, retry_on=_WORTH_ANOTHER_ATTEMPT),
    time_limit=seconds(60),
    breaker=STORAGE,
)
def promote_model(job: PromoteModel, context: Context[Resources]) -> PromotedModel:
    """Make a version of a model its latest."""
    return handlers.promote_model(
        job, context.resources.registry, job_id=context.job_id, sent_at=context.sent_at, now=datetime.now(UTC)
    )


@service.actor(
    TrainModel,
    retry=exponential(cap=600, attempts=8, retry_on=_WORTH_ANOTHER_ATTEMPT),
    time_limit=minutes(10),
    breaker=TRAINING_STORAGE,
)
def train_model(job: TrainModel, context: Context[Resources]) -> TrainedModel:
    """Train a classifier and publish it."""
    resources = context.resources
    return handlers.train_model(
        job,
        job_id=context.job_id,
        storage=resources.storage,
        datasets=resources.datasets,
        registry=resources.registry,
        learner=resources.learner(),
        checkpoints_kept=resources.settings.checkpoints_kept,
        time_slice=timedelta(seconds=resources.settings.training_slice_seconds),
        progress=context.progress,
        now=lambda: datetime.now(UTC),
        sent_at=context.sent_at,
        time_limit=service.actors[TrainModel.actor].time_limit,
        stopping=lambda: context.stopping,
        saved=context.checkpoint,
        max_bytes=resources.settings.training_max_mib * 2**20,
    )


@service.actor(
    RemoveOldCheckpoints,
    retry=exponential(cap=600, attempts=8, retry_on=_WORTH_ANOTHER_ATTEMPT),
    time_limit=minutes(5),
    breaker=TRAINING_STORAGE,
    periodic=cron("30 3 * * *"),
)
def remove_old_checkpoints(job: RemoveOldCheckpoints, context: Context[Resources]) -> RemovedCheckpoints:
    """Delete the checkpoints of trainings that died long ago."""
    return handlers.remove_old_checkpoints(job, context.resources.storage, now=datetime.now(UTC))
