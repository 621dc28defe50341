"""Builds the worker: the only place with side effects, and none of them at import."""

from dramatiq import set_broker

from inference_service.actors import service
from inference_service.settings import InferenceSettings
from jobkit.settings import exit_if_misconfigured, load_platform


def broker() -> None:
    """What ``dramatiq inference_service.main:broker`` calls in each worker process."""
    with exit_if_misconfigured():
        set_broker(service.build(load_platform(), InferenceSettings.load()))
