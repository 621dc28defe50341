"""Builds the worker: the only place with side effects, and none of them at import."""

from dramatiq import set_broker

from images_service.actors import service
from images_service.settings import ImagesSettings
from jobkit.settings import exit_if_misconfigured, load_platform


def broker() -> None:
    """What ``dramatiq images_service.main:broker`` calls in each worker process."""
    with exit_if_misconfigured():
        set_broker(service.build(load_platform(), ImagesSettings.load()))
