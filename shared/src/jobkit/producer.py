"""Sending jobs: confirmed by the broker, or an exception."""

import time
import uuid
from collections.abc import Iterable, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any, Final, Protocol, Self

from dramatiq import Message

from jobkit.broker.connection import ConnectionSettings
from jobkit.broker.envelope import ID_RULE, MAX_DEPTH, is_deeper, is_usable_id
from jobkit.broker.sender import Sender
from jobkit.contracts.job import CONTRACT_VERSION_OPTION, Job, lane_queue
from jobkit.contracts.key import checked_key
from jobkit.contracts.payload import PayloadChanged, payload_of
from jobkit.receipt import Receipt

#: Keys become ids in this namespace: the same key for the same kind of job is the same job.
_KEYS: Final = uuid.UUID("5b0a6c1e-3d0e-5a53-8f0c-0d9f6f1b7c42")


class SendsMessages(Protocol):
    """Where a producer's messages go: RabbitMQ, or the queues of the embedded mode."""

    def send(self, messages: Sequence[Message[Any]], *, delay: timedelta = timedelta()) -> None:
        """Return once all are durable; raises ``SendError``."""

    def close(self) -> None:
        """Close the connections."""


def message_for(
    job: Job, *, lane: str | None = None, key: str | None = None, job_id: str | None = None
) -> Message[Any]:
    """Return the Dramatiq message that carries ``job``.

    Raises:
        TypeError: The job's class names no queue.
        ValueError: The contract has no such lane, or key or id cannot be used.
        PayloadChanged: The job that arrives would not be this one; the text names the field.
    """
    if not job.queue:
        raise TypeError(f"{type(job).__name__} names no queue: class {type(job).__name__}(Job, queue=…)")
    lane = job.default_lane if lane is None else lane
    if lane not in job.lanes:
        raise ValueError(f"{job.actor} has no lane {lane!r}, only {', '.join(job.lanes)}")
    return Message(
        queue_name=lane_queue(type(job), lane),
        actor_name=job.actor,
        args=(),
        kwargs=_payload(job),
        options={CONTRACT_VERSION_OPTION: job.version} if job.version > 1 else {},
        message_id=_id(job, key, job_id),
        message_timestamp=int(time.time() * 1000),
    )


def _id(job: Job, key: str | None, job_id: str | None) -> str:
    if key is not None and job_id is not None:
        raise ValueError("give a key or a job id, not both: a key is turned into the job's id")
    if key is not None:
        return str(uuid.uuid5(_KEYS, f"{job.actor}:{checked_key(key)}"))
    if job_id is None:
        return str(uuid.uuid4())
    if not is_usable_id(job_id) or job_id.isspace():
        raise ValueError(f"job_id={job_id[:50]!r} must be {ID_RULE}, and not blank")
    return job_id


def _payload(job: Job) -> dict[str, Any]:
    payload = payload_of(job)
    if is_deeper(payload, MAX_DEPTH - 1):  # the message around it is one level more
        deepest = next((name for name, value in payload.items() if is_deeper([value], MAX_DEPTH - 1)), "payload")
        raise PayloadChanged(f"{type(job).__name__}.{deepest} nests arrays and objects more than {MAX_DEPTH - 2} deep")
    return payload


class Producer:
    """Sends jobs to the services, from any thread.

    >>> with Producer("amqp://…") as producer:                               # doctest: +SKIP
    ...     producer.send(BuildReport(account="a-17"), key="a-17/2026-10")

    It keeps one connection, opened at the first send, and may be made before a fork. A send that raised may have
    arrived all the same: repeat it under the same key or id, and the job runs once.

    Args:
        url: ``amqp://`` or ``amqps://``; several nodes separated by commas.
        name: Names the sender in each message's properties and in RabbitMQ's management page.
        timeout: Seconds that a send waits for the broker's confirm.
        max_bytes: The largest message.
    """

    def __init__(self, url: str, *, name: str = "producer", timeout: float = 10.0, max_bytes: int = 1_048_576) -> None:
        connection = ConnectionSettings([part.strip() for part in url.split(",")], name=name)
        self._sender: SendsMessages = Sender(connection, app_id=name, timeout=timeout, max_bytes=max_bytes)

    @classmethod
    def over(cls, sender: SendsMessages) -> Self:
        """A producer whose messages leave by ``sender``."""
        producer = cls.__new__(cls)
        producer._sender = sender
        return producer

    def send(
        self,
        job: Job,
        *,
        lane: str | None = None,
        key: str | None = None,
        job_id: str | None = None,
        delay: timedelta | None = None,
    ) -> Receipt:
        """Send one job; returns once the broker has confirmed it.

        Args:
            job: What to do. Its contract has been checked when it was made.
            lane: One of the contract's lanes.
            key: What the job means in your business (``"invoice/17"``). Sent twice, it runs once.
            job_id: An id of your own making instead, up to 200 bytes.
            delay: Run it no earlier than this from now, to the second.

        Raises:
            SendError: it was not confirmed.
            ValueError: the contract has no such lane.
        """
        message = message_for(job, lane=lane, key=key, job_id=job_id)
        self._sender.send([message], delay=delay or timedelta())
        return Receipt(message.message_id, message.actor_name, message.queue_name)

    def send_many(self, jobs: Iterable[Job], *, lane: str | None = None, delay: timedelta | None = None) -> list[Receipt]:
        """Send many jobs with their confirms in flight together; returns once all are confirmed.

        Raises:
            SendError: at least one was not confirmed. The others may have arrived.
        """
        messages = [message_for(job, lane=lane, key=None, job_id=None) for job in jobs]
        self._sender.send(messages, delay=delay or timedelta())
        return [Receipt(m.message_id, m.actor_name, m.queue_name) for m in messages]

    def close(self) -> None:
        """Close the connection."""
        self._sender.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
