"""Sending jobs: confirmed by the broker, or an exception."""

import math
import time
import uuid
from collections import deque
from collections.abc import Iterable, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any, Final, Literal, Protocol, Self, overload

from dramatiq import Message

from jobkit.addresses.broker import broker_urls
from jobkit.broker.connection import ConnectionSettings
from jobkit.broker.declarer import Declare, Declarer
from jobkit.broker.envelope import ID_RULE, MAX_DEPTH, is_deeper, is_usable_id
from jobkit.broker.sender import Sender
from jobkit.bulk import Bulk, Receipts, StreamsMessages
from jobkit.contracts.job import CONTRACT_VERSION_OPTION, Job, lane_queue
from jobkit.contracts.key import checked_key
from jobkit.contracts.payload import PayloadChanged, payload_of
from jobkit.receipt import Receipt, Sent
from jobkit.settings import BrokerSettings

#: Keys become ids in this namespace: the same key for the same kind of job is the same job.
_KEYS: Final = uuid.UUID("5b0a6c1e-3d0e-5a53-8f0c-0d9f6f1b7c42")


class SendsMessages(Protocol):
    """Where messages go: RabbitMQ, or the queues of the embedded mode."""

    def send(self, messages: Sequence[Message[Any]], *, delay: timedelta = timedelta()) -> None:
        """Return once all are durable; raises ``SendError``."""

    def close(self) -> None:
        """Close the connections."""


class SendsAndStreams(SendsMessages, StreamsMessages, Protocol):
    """Where a producer's messages go."""


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
        timeout: Seconds that a send waits for the broker's confirm. Connecting has time of its own.
        max_bytes: The largest message.
        heartbeat: Seconds of silence after which the connection counts as dead.
        connect_timeout: Seconds for one attempt to reach a node.
        declare: ``"auto"`` makes a queue that is missing, if the user may. ``"never"`` makes nothing: a send to a
            missing queue raises ``Unroutable``.

    Raises:
        ValueError: The address or a limit cannot be used. The text shows no password.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str = "producer",
        timeout: float = 10.0,
        max_bytes: int = 1_048_576,
        heartbeat: int = 30,
        connect_timeout: float = 5.0,
        declare: Declare = "auto",
    ) -> None:
        for argument, value in (("timeout", timeout), ("max_bytes", max_bytes), ("connect_timeout", connect_timeout)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{argument}={value!r} must be a number above 0")
        if not is_usable_id(name):
            raise ValueError(f"name={name[:50]!r} must be {ID_RULE}")
        connection = ConnectionSettings(broker_urls(url), heartbeat, connect_timeout, name)
        self._sender: SendsAndStreams = Sender(
            connection, app_id=name, timeout=timeout, max_bytes=max_bytes, declarer=Declarer(declare)
        )

    @classmethod
    def from_settings(cls, settings: BrokerSettings | None = None, *, name: str = "producer") -> Self:
        """Return a producer with the limits of ``settings``, or of the environment (``JOBKIT_…``) if there are none.

        Raises:
            SettingsError: A variable is missing, malformed or unsafe.
        """
        found = BrokerSettings.load() if settings is None else settings
        return cls(
            ",".join(found.broker_urls),
            name=name,
            timeout=found.send_timeout_seconds,
            max_bytes=found.max_message_bytes,
            heartbeat=found.heartbeat_seconds,
            connect_timeout=found.connect_timeout_seconds,
            declare=found.declare,
        )

    @classmethod
    def over(cls, sender: SendsAndStreams) -> Self:
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
            lane: One of the contract's lanes; its default lane if none is given.
            key: What the job means in your business (``"invoice/17"``). Sent twice, it runs once.
            job_id: An id of your own making instead, up to 200 bytes.
            delay: Run it no earlier than this from now, to the second. A negative one means now.

        Raises:
            SendError: It was not confirmed.
            PayloadChanged: The job that arrives would not be this one; the text names the field.
            ValueError: The contract has no such lane, the key is blank, or the delay is too long.
        """
        message = message_for(job, lane=lane, key=key, job_id=job_id)
        self._sender.send([message], delay=delay or timedelta())
        return Receipt(message.message_id, message.actor_name, message.queue_name)

    @overload
    def send_many(
        self,
        jobs: Iterable[Job],
        *,
        lane: str | None = None,
        delay: timedelta | None = None,
        receipts: Literal[False] = False,
    ) -> Sent: ...

    @overload
    def send_many(
        self, jobs: Iterable[Job], *, lane: str | None = None, delay: timedelta | None = None, receipts: Literal[True]
    ) -> Receipts: ...

    def send_many(
        self, jobs: Iterable[Job], *, lane: str | None = None, delay: timedelta | None = None, receipts: bool = False
    ) -> Sent | Receipts:
        """Send any number of jobs with their confirms in flight together; returns once all are confirmed.

        ``jobs`` may be a generator: it is read no faster than the broker confirms, and nothing grows with the number of
        jobs. The timeout counts from the last confirm.

        Args:
            jobs: What to do.
            lane: One of the lanes of each job's contract; its default lane if none is given.
            delay: Run them no earlier than this from now, to the second.
            receipts: Return an iterator over the receipts. Read it to its end: that sends the jobs beyond the first
                1,000, and raises the errors.

        Raises:
            NotAllSent: At least one was not confirmed. Its ``refused`` has the first 1,000, each with its error and the
                id to send it again under. After that many, or when the broker no longer answers, no further jobs are
                read; ``taken`` says how many were.
            Exception: What the generator of the jobs raised. Its attribute ``sent`` has the counts, and ``refused``
                the jobs that were not confirmed.
        """
        bulk = Bulk(self._sender, jobs, lambda job: message_for(job, lane=lane), delay or timedelta())
        if receipts:
            return Receipts(bulk)
        deque(bulk.receipts(), maxlen=0)
        return bulk.sent

    def close(self) -> None:
        """Close the connection."""
        self._sender.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
