"""Taking messages off one queue.

A consumer reconnects by itself, with backoff, for as long as its worker runs. What no actor can take is dead-lettered
here, before Dramatiq sees it.
"""

import logging
import random
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final

import pika
from dramatiq import Message
from dramatiq.broker import Consumer, MessageProxy

from jobkit.broker.connection import CONNECTION_LOST
from jobkit.broker.envelope import decode
from jobkit.broker.host import Host
from jobkit.broker.session import RabbitmqDelivery, Session, Settlement
from jobkit.deadletters import Failure, Reason, has_been_dead
from jobkit.errors import JobkitError, MessageTooLarge, TopologyMismatch, Undecodable, UnknownActor, text_of
from jobkit.execution import execution_of

_LONGEST_PAUSE: Final = 2.0

#: Seconds: a message that could not be buried goes back to the queue and returns at once; without it this would spin.
_REST_AFTER_A_REFUSAL: Final = 1.0

#: What is dead-lettered before Dramatiq sees it.
_REFUSALS: Final[dict[type[JobkitError], Reason]] = {
    MessageTooLarge: Reason.TOO_LARGE,
    Undecodable: Reason.UNDECODABLE,
    UnknownActor: Reason.UNKNOWN_ACTOR,
}

log = logging.getLogger(__name__)


class RabbitmqConsumer(Consumer):
    """What Dramatiq's consumer thread drives: an endless iterator over one queue."""

    def __init__(self, broker: Host, queue: str, prefetch: int, timeout: int) -> None:
        self._broker = broker
        self._queue = queue
        self._prefetch = prefetch
        self._timeout = timeout / 1000
        self._session: Session | None = None
        self._pause = 0.1
        self._retry_at = 0.0
        self._was_connected = False
        self._rest_until: float | None = None  # after a burial

    def __next__(self) -> MessageProxy | None:
        session = self._session or self._connect()
        if session is None:
            return None
        try:
            if self._broker.stopping.is_set():
                session.stop_taking()
                session.connection.process_data_events(min(self._timeout, 0.1))
                return None
            if self._rest_until is not None:
                # A burial takes until its time-out, and the next may be bad as well: heartbeats come in between.
                session.wait(max(0.0, self._rest_until - time.monotonic()))
                if time.monotonic() < self._rest_until:
                    return None
                self._rest_until = None
            elif not session.arrived:
                session.wait(self._timeout)
        except CONNECTION_LOST as error:
            self._lose(session, error)
            return None
        if not session.arrived:
            return None
        return self._accept(session, *session.arrived.popleft())

    def ack(self, message: MessageProxy) -> None:
        execution = execution_of(message)
        unfinished = execution is not None and not execution.settled
        self._settle(message, Settlement.REQUEUE if unfinished else Settlement.ACK)

    def nack(self, message: MessageProxy) -> None:
        self._settle(message, Settlement.REJECT)

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        for message in messages:
            self._settle(message, Settlement.REQUEUE)

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def _settle(self, message: MessageProxy, settlement: Settlement) -> None:
        if isinstance(message, RabbitmqDelivery):
            message.session.settle(message.tag, settlement)

    def _accept(
        self, session: Session, method: Any, properties: pika.BasicProperties, body: bytes
    ) -> MessageProxy | None:
        try:
            self._check_size(body)
            message = self._decode(body, properties)
            self._check_actor(message.actor_name)
        except tuple(_REFUSALS) as error:
            self._bury(session, method.delivery_tag, body, properties, error, _REFUSALS[type(error)])
            return None
        return RabbitmqDelivery(
            message,
            session,
            method.delivery_tag,
            revived=has_been_dead(properties.headers),
        )

    def _check_size(self, body: bytes) -> None:
        limit = self._broker.max_message_bytes * 2  # what a sender may send grows a little with every retry
        if len(body) > limit:
            raise MessageTooLarge(f"the body is {len(body):,} bytes long, the limit is {limit:,}")

    def _decode(self, body: bytes, properties: pika.BasicProperties) -> Message[Any]:
        try:
            return decode(body, properties, self._queue)
        except Undecodable:
            raise
        except Exception as error:  # let out, it would end the session, and come back with the message
            log.exception("decoding a message from %s failed in a way that nobody foresaw", self._queue)
            raise Undecodable(f"{type(error).__name__}: {text_of(error)}") from error

    def _check_actor(self, name: str) -> None:
        if name not in self._broker.actors:
            raise UnknownActor(f"no actor {name[:100]!r} runs on queue {self._queue!r}")

    def _bury(
        self,
        session: Session,
        tag: int,
        body: bytes,
        properties: pika.BasicProperties,
        error: Exception,
        reason: Reason,
    ) -> None:
        actor, now = str(properties.type or ""), int(time.time() * 1000)
        failure = Failure.of(error, reason, actor=actor, queue=self._queue, died_at=now)
        log.error("dead-lettered a message from %s: %s", self._queue, error)
        try:
            self._broker.publish_dead_letter(body, properties, failure)
        except JobkitError as refusal:
            log.warning("its dead-letter record was not confirmed, so it goes back to the queue: %s", refusal)
            session.settle(tag, Settlement.REQUEUE)
            self._rest_until = time.monotonic() + _REST_AFTER_A_REFUSAL
        else:
            session.settle(tag, Settlement.ACK)
            self._rest_until = time.monotonic()

    def _connect(self) -> Session | None:
        pause = self._retry_at - time.monotonic()
        if self._broker.stopping.is_set():
            time.sleep(min(self._timeout, 0.1))
            return None
        if pause > 0:
            self._broker.stopping.wait(min(self._timeout, pause))
            return None
        try:
            connection = self._broker.connection_settings.open()
            try:
                self._broker.declare_on(connection.channel(), self._queue)
                self._session = Session(connection, self._queue, self._prefetch)
            except BaseException:
                with suppress(*CONNECTION_LOST):  # what went wrong may have closed it
                    connection.close()
                raise
        except TopologyMismatch as error:
            self._broker.give_up(error)
            return None
        except CONNECTION_LOST as error:
            self._broker.report_outage(error, first=not self._was_connected)
            self._back_off()
            return None
        if self._pause > 0.1:
            log.info("taking messages from %s again", self._queue)
        self._broker.report_connected()
        self._was_connected, self._pause = True, 0.1
        return self._session

    def _lose(self, session: Session, error: BaseException) -> None:
        if self._session is session:
            self._session = None
        session.close()
        if not self._broker.stopping.is_set():
            log.warning(
                "the connection for %s was lost, its jobs go on: %s", self._queue, str(error) or type(error).__name__
            )
        self._back_off()

    def _back_off(self) -> None:
        self._retry_at = time.monotonic() + self._pause * random.uniform(0.5, 1.0)  # noqa: S311  jitter, not a secret
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)
