"""What a consumer needs of the broker that it works for."""

import threading
from collections.abc import Container
from datetime import timedelta
from typing import Any, Protocol

import pika
from dramatiq import Message
from pika.adapters.blocking_connection import BlockingChannel

from jobkit.broker.connection import ConnectionSettings
from jobkit.deadletters import Failure
from jobkit.refusals import Refusals


class Host(Protocol):
    """A ``JobBroker``, as its consumers see it."""

    stopping: threading.Event
    connection_settings: ConnectionSettings
    refusals: Refusals

    @property
    def actors(self) -> Container[str]:
        """The names of the actors that run here."""

    @property
    def max_message_bytes(self) -> int:
        """The largest body that may be sent."""

    @property
    def rollout(self) -> timedelta:
        """How long a message waits for a worker that has its actor."""

    def enqueue(self, message: Message[Any], *, delay: int | None = None) -> Message[Any]:
        """Return once the message is confirmed, to arrive after ``delay`` milliseconds; raises ``SendError``."""

    def declare_on(self, channel: BlockingChannel, queue: str, *, since: float) -> None:
        """Make the queue, unless that was done after ``since``; raises ``TopologyMismatch``, ``DeclarationRefused``."""

    def publish_dead_letter(self, body: bytes, properties: pika.BasicProperties, failure: Failure) -> None:
        """Return once the dead letter is confirmed; raises ``SendError``."""

    def report_death(self, error: BaseException, failure: Failure, properties: pika.BasicProperties) -> None:
        """A message was dead-lettered before any actor saw it."""

    def report_outage(self, error: BaseException, *, first: bool, queue: str = "") -> None:
        """The broker cannot be reached, or refuses the queue; ``first`` if it always did."""

    def report_connected(self, queue: str = "") -> None:
        """The broker is reached, and lets us consume the queue."""

    def give_up(self, error: BaseException) -> None:
        """End the worker: only a person can help."""
