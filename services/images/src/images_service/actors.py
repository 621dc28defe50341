"""The images service's actors: which job runs which handler, and under which rules."""

from images_service import handlers
from images_service.adapters import Resources, open_resources
from images_service.errors import StorageUnavailable
from jobkit.breaker.breaker import CircuitBreaker
from jobkit.context import Context
from jobkit.contracts.images import ProcessedImage, ProcessImage
from jobkit.errors import TransientError
from jobkit.retry import exponential
from jobkit.service import Service
from jobkit.time import minutes

service = Service("images", lifespan=open_resources)


@service.actor(
    ProcessImage,
    retry=exponential(cap=600, attempts=8, retry_on=TransientError),
    breaker=CircuitBreaker("storage", trips_on=StorageUnavailable),
    time_limit=minutes(2),  # the largest image allowed takes one core some 15 s to write as WebP or AVIF
)
def process_image(job: ProcessImage, context: Context[Resources]) -> ProcessedImage:
    """Apply operations to an image and write what comes out."""
    resources = context.resources
    return handlers.process_image(
        job,
        resources.storage,
        max_pixels=resources.max_pixels,
        progress=context.progress,
        memory=resources.memory,
    )
