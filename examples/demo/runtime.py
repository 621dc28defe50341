"""Where the demo's jobs run: in worker processes on RabbitMQ, or all in this process."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from board import Letter

from jobkit.contracts.email import SendEmail
from jobkit.contracts.etl import RunPipeline
from jobkit.contracts.images import ProcessImage
from jobkit.contracts.inference import PredictBatch, TrainModel
from jobkit.producer import Producer
from jobkit.store.base import JobStore

#: The queues that the demo sends to.
QUEUES = tuple(job.queue for job in (SendEmail, ProcessImage, RunPipeline, PredictBatch, TrainModel))


class Runtime(Protocol):
    """Runs the services; implemented by ``workers`` and ``embedded``."""

    @property
    def title(self) -> str:
        """What runs where, in a few words."""

    @property
    def producer(self) -> Producer:
        """Sends to the services."""

    @property
    def store(self) -> JobStore:
        """Holds the records of their jobs."""

    @property
    def programs(self) -> Mapping[str, bool]:
        """What has been started, and whether it still runs."""

    @property
    def logs(self) -> Sequence[Path]:
        """What the programs have written."""

    def depths(self) -> Mapping[str, int]:
        """Messages that wait in each queue of ``QUEUES``, and in each service's dead-letter queue."""

    def dead_letters(self, service: str) -> Sequence[Letter]:
        """The dead letters of a service, oldest first; they stay where they are."""

    def stop(self) -> None:
        """End the programs gently, so that they hand back what they hold. Queues and records stay readable."""
