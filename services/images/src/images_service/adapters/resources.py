"""What a worker process opens once and all its jobs share."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from images_service.adapters.memory import Memory
from images_service.adapters.pictures import confine_libvips
from images_service.adapters.storage import ObjectStorage, Storage, open_store
from images_service.settings import ImagesSettings


@dataclass(frozen=True)
class Resources:
    """The storage, the most pixels that an image may have, and the memory of all images."""

    storage: Storage
    max_pixels: int
    memory: Memory


@contextmanager
def open_resources(settings: ImagesSettings) -> Iterator[Resources]:
    """Confine libvips and open the storage; a remote one is first asked when a job needs it.

    Raises:
        SettingsError: the storage's URL is wrong, or its directory cannot be written to.
    """
    confine_libvips()
    store = open_store(settings.storage_url)
    storage = ObjectStorage(
        store,
        max_bytes=settings.max_bytes,
        output_prefix=settings.output_prefix,
        cache_control=settings.cache_control,
    )
    yield Resources(storage, settings.max_pixels, Memory(settings.memory_mb << 20))
