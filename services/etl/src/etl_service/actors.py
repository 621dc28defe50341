"""The jobs of this service: which contract runs which handler, how long, and how often again."""

from etl_service import handlers
from etl_service.adapters.resources import Resources, open_resources
from etl_service.errors import DatabaseDown, StorageUnavailable, TransformTooLong
from jobkit.breaker.breaker import CircuitBreaker
from jobkit.context import Context
from jobkit.contracts.etl import LoadTable, RunPipeline, TransformTable
from jobkit.errors import TimeLimitExceeded
from jobkit.retry import exponential
from jobkit.service import Service
from jobkit.time import minutes

service = Service("etl", lifespan=open_resources)

#: Databases and web servers that are away come back within minutes, so the attempts span half an hour. Whatever is not
#: permanent is worth another try.
RETRY = exponential(first=5, cap=600, attempts=10)

STORAGE = CircuitBreaker("storage", trips_on=StorageUnavailable)
WAREHOUSE = CircuitBreaker("warehouse", trips_on=DatabaseDown)


@service.actor(RunPipeline, retry=RETRY, time_limit=minutes(5), breaker=STORAGE)
def run_pipeline(job: RunPipeline, context: Context[Resources]) -> handlers.Extracted:
    """Copy the source to storage and send the next step."""
    own = context.resources
    return handlers.run_pipeline(
        job, context.job_id, own.files, own.web, max_bytes=own.max_bytes, send=context.send, progress=context.progress
    )


@service.actor(TransformTable, retry=RETRY, time_limit=minutes(5), breaker=STORAGE)
def transform_table(job: TransformTable, context: Context[Resources]) -> handlers.Transformed:
    """Split the copy into typed rows and rejects, and send the next step."""
    try:
        return handlers.transform_table(job, context.resources.files, send=context.send, progress=context.progress)
    except TimeLimitExceeded as error:
        # It begins from zero each time: what was too long twice will be too long again.
        if context.remember("time limit", str(context.attempt)) != str(context.attempt):
            raise TransformTooLong("the transform ran into its time limit twice: split the source") from error
        raise


@service.actor(LoadTable, retry=RETRY, time_limit=minutes(5), breaker=WAREHOUSE)
def load_table(job: LoadTable, context: Context[Resources]) -> handlers.Loaded:
    """Load the typed rows, once."""
    own = context.resources
    return handlers.load_table(job, context.job_id, own.files, own.warehouse, progress=context.progress)
