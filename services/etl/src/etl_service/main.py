"""Builds the worker: the only place with side effects, and none of them at import."""

from dramatiq import set_broker

from etl_service.actors import service
from etl_service.settings import EtlSettings
from jobkit.settings import exit_if_misconfigured, load_platform


def broker() -> None:
    """What ``dramatiq etl_service.main:broker`` calls in each worker process."""
    with exit_if_misconfigured():
        set_broker(service.build(load_platform(), EtlSettings.load()))
