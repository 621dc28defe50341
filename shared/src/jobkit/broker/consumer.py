"""Taking messages off one queue.

A consumer reconnects by itself, with backoff, for as long as its worker runs. What no actor can take is dead-lettered
here, before Dramatiq sees it.
"""

import logging
import random
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final

import pika
from dramatiq import Message
from dramatiq.broker import Consumer, MessageProxy

from jobkit import telemetry
from jobkit.broker import topology
from jobkit.broker.connection import CONNECTION_LOST
from jobkit.broker.envelope import decode, is_usable_id
from jobkit.broker.host import Host
from jobkit.broker.pulse import Pulse
from jobkit.broker.session import RabbitmqDelivery, Session, Settlement
from jobkit.deadletters import Failure, Reason, has_been_dead, round_after
from jobkit.errors import (
    AccessRefused,
    DeclarationRefused,
    DeliveredTooOften,
    JobkitError,
    MessageTooLarge,
    TopologyMismatch,
    Undecodable,
    UnknownActor,
    text_of,
)
from jobkit.execution import DEFERRED_OPTION, REFUSED_OPTION, Decision, for_later, settled
from jobkit.rounds import said_round
from jobkit.time import milliseconds
from jobkit.waits import next_wait

_LONGEST_PAUSE: Final = 2.0

#: Seconds. A message that could not be replaced goes back to the queue and returns at once: without a pause, too often.
_REST_AFTER_A_REFUSAL: Final = 1.0

#: What is dead-lettered before Dramatiq sees it.
_REFUSALS: Final[dict[type[JobkitError], Reason]] = {
    MessageTooLarge: Reason.TOO_LARGE,
    Undecodable: Reason.UNDECODABLE,
    UnknownActor: Reason.UNKNOWN_ACTOR,
    DeliveredTooOften: Reason.DELIVERY_LIMIT,
}

log = logging.getLogger(__name__)


class RabbitmqConsumer(Consumer):
    """What Dramatiq's consumer thread drives: an endless iterator over one queue.

    Args:
        broker: It works for it.
        queue: Its name.
        prefetch: How many messages the broker may send ahead.
        timeout: Milliseconds to wait for one.
        ahead: How many more that may be just now.

    Attributes:
        prefetch: How many the broker may send ahead now.
    """

    def __init__(
        self, broker: Host, queue: str, prefetch: int, timeout: int, ahead: Callable[[], int] = lambda: 0
    ) -> None:
        self.pulse = Pulse()
        self.prefetch = self._least = prefetch
        self._ahead = ahead
        self._broker = broker
        self._queue = queue
        self._timeout = timeout / 1000
        self._session: Session | None = None
        self._pause = 0.1
        self._retry_at = 0.0
        self._lost_at = 0.0  # by the monotonic clock; a connection that could not be made counts, too
        self._was_connected = False
        self._rest_until: float | None = None  # after a publish
        self._warned_of = ""  # an actor that does not run here
        self._replacing = f"replacing messages of {queue}"  # as ``Refusals`` names it

    def __next__(self) -> MessageProxy | None:
        message = self._next()
        if self._session is not None:
            self.pulse.beat()
        return message

    def _next(self) -> MessageProxy | None:
        session = self._session or self._connect()
        if session is None:
            return None
        try:
            if self._broker.stopping.is_set():
                session.stop_taking()
                session.connection.process_data_events(min(self._timeout, 0.1))
                return None
            if self._rest_until is not None:
                # A publish takes until its time-out, and the next may fail as well: heartbeats come in between.
                session.wait(max(0.0, self._rest_until - time.monotonic()))
                if time.monotonic() < self._rest_until:
                    return None
                self._rest_until = None
            elif not session.arrived or session.is_over:
                if not session.is_over:
                    self._adjust(session)
                session.wait(self._timeout)  # which raises why it is over
                if self.pulse.asked:
                    self.pulse.answer(session.ready())
        except CONNECTION_LOST as error:
            self._lose(session, error)
            return None
        if not session.arrived:
            return None
        self.pulse.took()
        return self._accept(session, *session.arrived.popleft())

    def ack(self, message: MessageProxy) -> None:
        decision = settled(message)
        if decision is not None:  # else it is settled once that is recorded
            self.settle(message, decision)

    def settle(self, message: MessageProxy, decision: Decision) -> None:
        """Settle a delivery, in any thread."""
        if decision.is_final:
            self._settle(message, Settlement.ACK)
        else:
            self._settle(message, Settlement.RETURN if decision.stumbled else Settlement.REQUEUE)

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
            self._check_deliveries(method, properties)
            self._check_size(body, self._broker.max_message_bytes * 2)
            message = self._decode(body, properties)
            if not has_been_dead(properties.headers) and DEFERRED_OPTION not in message.options:
                self._check_size(body, self._broker.max_message_bytes)
            if message.actor_name not in self._broker.actors:
                self._postpone(session, method.delivery_tag, message)
                return None
        except tuple(_REFUSALS) as error:
            self._bury(session, method.delivery_tag, body, properties, error)
            return None
        delivery = RabbitmqDelivery(message, session, method.delivery_tag, redelivered=bool(method.redelivered))
        delivery.__dict__["settle"] = self.settle
        delivery.__dict__["more_follow"] = bool(session.arrived)
        return delivery

    def _check_deliveries(self, method: Any, properties: pika.BasicProperties) -> None:
        count = (properties.headers or {}).get("x-delivery-count")
        # RabbitMQ itself would dead-letter it at its next return, and nobody would be told.
        if method.redelivered and isinstance(count, int) and count >= topology.DELIVERY_LIMIT:
            raise DeliveredTooOften(f"it was delivered {count} times before and never came to an end")

    def _check_size(self, body: bytes, limit: int) -> None:
        # A copy of ours, and a dead letter that was sent again, is larger than what was sent: it has room up to twice.
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

    def _postpone(self, session: Session, tag: int, message: Message[Any]) -> None:
        """Let a message wait for a worker that has its actor; raises ``UnknownActor`` if it has waited long enough."""
        name = message.actor_name[:100]
        wait = next_wait(message.options, REFUSED_OPTION, self._broker.rollout)
        if wait is None or not is_usable_id(message.actor_name):  # no worker will ever have an actor of such a name
            raise UnknownActor(f"no actor {name!r} runs on queue {self._queue!r}")
        if self._warned_of != name:
            self._warned_of = name
            log.warning("no actor %r runs on queue %s here: its messages wait for a newer worker", name, self._queue)
        copy, delay = for_later(message, **wait.options), milliseconds(wait.delay)
        if self._publish_instead(session, tag, lambda: self._broker.enqueue(copy, delay=delay)):
            telemetry.postponed(self._queue)

    def _bury(
        self, session: Session, tag: int, body: bytes, properties: pika.BasicProperties, error: JobkitError
    ) -> None:
        actor, now = str(properties.type or ""), int(time.time() * 1000)
        number = self._round_of(body, properties, error)
        failure = Failure.of(
            error, _REFUSALS[type(error)], actor=actor, queue=self._queue, died_at=now, job_round=number
        )
        log.error("dead-lettered a message from %s: %s", self._queue, error)
        if self._publish_instead(session, tag, lambda: self._broker.publish_dead_letter(body, properties, failure)):
            self._broker.report_death(error, failure, properties)

    def _round_of(self, body: bytes, properties: pika.BasicProperties, error: JobkitError) -> int:
        """Return the round that a message dies in; that of a body which is not read is what its headers say."""
        if not isinstance(error, MessageTooLarge | Undecodable):
            with suppress(Undecodable):
                return said_round(self._decode(body, properties).options)
        return round_after(0, properties.headers) if has_been_dead(properties.headers) else 0

    def _publish_instead(self, session: Session, tag: int, publish: Callable[[], object]) -> bool:
        """Publish what takes a delivery's place, and settle it; False if that was not confirmed."""
        try:
            publish()
        except JobkitError as refusal:
            if isinstance(refusal, AccessRefused):
                self._broker.refusals.report(self._replacing, refusal)
            else:
                log.warning("what follows from a message was not confirmed, so it goes back to the queue: %s", refusal)
            session.settle(tag, Settlement.REQUEUE)
            self._rest_until = time.monotonic() + _REST_AFTER_A_REFUSAL
            return False
        self._broker.refusals.clear(self._replacing)
        session.settle(tag, Settlement.ACK)
        self._rest_until = time.monotonic()
        return True

    def _adjust(self, session: Session) -> None:
        more = self._ahead()
        if self._least + more != self.prefetch:
            session.take_ahead(more)
            self.prefetch = self._least + more

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
                self._broker.declare_on(connection.channel(), self._queue, since=self._lost_at)
                self._session = Session(connection, self._queue, self._least)
                self.prefetch = self._least
            except BaseException:
                with suppress(*CONNECTION_LOST):  # what went wrong may have closed it
                    connection.close()
                raise
        except (*CONNECTION_LOST, DeclarationRefused) as error:
            self._broker.report_outage(error, first=not self._was_connected, queue=self._queue)
            self._back_off()
            return None
        except TopologyMismatch as error:
            self._broker.give_up(error)
            return None
        if self._pause > 0.1:
            log.info("taking messages from %s again", self._queue)
        self._broker.report_connected(self._queue)
        self._was_connected, self._pause = True, 0.1
        return self._session

    def _lose(self, session: Session, error: BaseException) -> None:
        if self._session is session:
            self._session = None
        self.pulse.answer(None)
        session.close()
        if not self._broker.stopping.is_set():
            log.warning(
                "the connection for %s was lost, its jobs go on: %s", self._queue, str(error) or type(error).__name__
            )
        self._back_off()

    def _back_off(self) -> None:
        self._lost_at = time.monotonic()
        self._retry_at = self._lost_at + self._pause * random.uniform(0.5, 1.0)  # noqa: S311  jitter, not a secret
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)
