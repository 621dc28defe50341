"""The broker of a worker: Dramatiq's, with confirms, quorum queues, broker-side delays and dead-letter records."""

import logging
import math
import os
import signal
import threading
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from typing import Any, Final

import pika
from dramatiq import Message
from dramatiq.broker import Consumer
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.middleware import Middleware, MiddlewareError
from pika.adapters.blocking_connection import BlockingChannel

from jobkit import telemetry
from jobkit.broker import topology
from jobkit.broker.connection import ConnectionSettings, is_misconfigured
from jobkit.broker.consumer import RabbitmqConsumer
from jobkit.broker.declarer import Declarer
from jobkit.broker.envelope import trace_of
from jobkit.broker.sender import Sender
from jobkit.deadletters import Failure
from jobkit.errors import BrokerUnavailable, DeclarationRefused, JobkitError
from jobkit.refusals import Refusals
from jobkit.settings import EXIT_MISCONFIGURED

#: How many times as many quick jobs as others are held.
_QUICK: Final = 4

log = logging.getLogger(__name__)

#: Takes the exception, its record, and the message's actor and id as its properties name them.
DeathHook = Callable[[BaseException, Failure, str, str], None]

ErrorHook = Callable[[JobkitError], None]


class JobBroker(RabbitmqBroker):
    """A ``RabbitmqBroker`` that loses nothing.

    - ``enqueue`` returns after the broker's confirm, or raises ``SendError``;
    - a delay is held by the broker, and Dramatiq's ``.DQ`` and ``.XQ`` queues are not used;
    - queues are quorum queues, with an explicit delivery limit and at-least-once dead lettering;
    - a consumer waits out an outage; a misconfiguration ends the worker with one line and exit status 78.

    Args:
        connection: The nodes.
        sender: How messages leave.
        prefetch: Messages held per queue and process; 0 is two per thread, and six more where jobs are quick.
        rollout: How long a message waits for a worker that has its actor.
        declarer: Makes the queues; that of the sender, so that nothing is declared twice.
        refusals: Told when the broker refuses our user.

    Attributes:
        death_hooks: Called with the exception, its record and the message's id and actor for each message that died
            before any actor saw it.
        error_hooks: Called with each error of the broker, as often as it is met.
        is_quick: Tells whether the jobs of a queue take so little time that many may wait in one process.
    """

    def __init__(
        self,
        connection: ConnectionSettings,
        sender: Sender,
        *,
        prefetch: int = 0,
        rollout: timedelta = timedelta(hours=1),
        declarer: Declarer | None = None,
        refusals: Refusals | None = None,
    ) -> None:
        self._hooks: dict[str, tuple[int, list[tuple[Middleware, Callable[..., object]]]]] = {}
        super().__init__(url=list(connection.urls), middleware=[], confirm_delivery=True)
        self.parameters = connection.parameters()
        self.connection_settings = connection
        self.stopping = threading.Event()
        self.rollout = rollout
        self.death_hooks: list[DeathHook] = []
        self.error_hooks: list[ErrorHook] = []
        self.is_quick: Callable[[str], bool] = lambda _queue: False
        self.refusals = refusals or Refusals()
        self._sender = sender
        self._prefetch = prefetch
        self._fatal: BaseException | None = None
        self._outage_reported = False
        self._was_let_in = False
        self._declarer = declarer or Declarer()

    def emit_before(self, signal: str, *args: Any, **kwargs: Any) -> None:
        """Call the hooks of this name that somebody has: most middleware has few, and a job passes four of them."""
        name = f"before_{signal}"
        for middleware, hook in self._hooks_of(name):
            try:
                hook(self, *args, **kwargs)
            except MiddlewareError:
                raise
            except Exception:
                self.logger.critical("Unexpected failure in %s of %r.", name, middleware, exc_info=True)

    def emit_after(self, signal: str, *args: Any, **kwargs: Any) -> None:
        """Call the hooks of this name that somebody has, the last one first."""
        name = f"after_{signal}"
        for middleware, hook in reversed(self._hooks_of(name)):
            try:
                hook(self, *args, **kwargs)
            except Exception:
                self.logger.critical("Unexpected failure in %s of %r.", name, middleware, exc_info=True)

    def _hooks_of(self, name: str) -> list[tuple[Middleware, Callable[..., object]]]:
        known, count = self._hooks.get(name), len(self.middleware)
        if known is None or known[0] != count:  # middleware is only ever added
            hooks = [(one, getattr(one, name)) for one in self.middleware]
            none = getattr(Middleware, name)
            known = count, [(one, hook) for one, hook in hooks if getattr(hook, "__func__", hook) is not none]
            self._hooks[name] = known
        return known[1]

    @property
    def max_message_bytes(self) -> int:
        """The largest body that this worker sends."""
        return self._sender.max_bytes

    def reach(self) -> None:
        """Connect once; raises if that fails."""
        self.connection_settings.open().close()

    def declare_queue(self, queue_name: str, *, ensure: bool = False) -> None:
        """Note that this process uses the queue; with ``ensure``, make it on the server now."""
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues.add(queue_name)
            self.emit_after("declare_queue", queue_name)
        if ensure:
            with self.connection_settings.open() as connection:
                self.declare_on(connection.channel(), queue_name)

    def declare_on(self, channel: BlockingChannel, queue: str, *, since: float = math.inf) -> None:
        """Make the queue, the delay ladder and what binds them, unless that was done after ``since``.

        What its user may not declare has to exist, and is used as it is.

        Args:
            channel: Of the connection to use.
            queue: The queue.
            since: When a connection was lost last, by the monotonic clock; in any case if it is left out.

        Raises:
            TopologyMismatch: Something exists with other arguments.
            DeclarationRefused: Something does not exist, and is not to be made by this user or process.
        """
        self._declarer.ensure([queue], lambda: nullcontext(channel.connection), since=since)

    def enqueue(self, message: Message[Any], *, delay: int | None = None) -> Message[Any]:
        """Publish ``message`` to its queue, after ``delay`` milliseconds (rounded up to seconds) if given.

        Raises:
            SendError: it was not confirmed.
        """
        self.emit_before("enqueue", message, delay)
        self._sender.send([message], delay=timedelta(milliseconds=delay or 0))
        self.emit_after("enqueue", message, delay)
        return message

    def bury(self, message: Message[Any], failure: Failure) -> None:
        """Publish the message with the record of its death; raises ``SendError``."""
        self._sender.bury(message, failure)

    def publish_dead_letter(self, body: bytes, properties: pika.BasicProperties, failure: Failure) -> None:
        """Publish a body that is no message with the record of its death; raises ``SendError``."""
        self._sender.bury_raw(body, properties, failure)

    def report_death(self, error: BaseException, failure: Failure, properties: pika.BasicProperties) -> None:
        """Count a message that was dead-lettered before any actor saw it, and tell the hooks."""
        actor, job_id = str(properties.type or ""), str(properties.message_id or "")
        telemetry.died_unseen(failure.queue, actor, job_id, trace_of(properties.headers), error)
        for hook in self.death_hooks:
            try:
                hook(error, failure, actor, job_id)
            except Exception:
                log.exception("a dead letter could not be reported")

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> Consumer:
        """An iterator over the queue; it connects when it is first asked for a message."""
        if self._prefetch:
            return RabbitmqConsumer(self, queue_name, self._prefetch, timeout)
        # Dramatiq asks for two per thread. Quick jobs come and go in groups, and nobody waits long behind more of them.
        more = (_QUICK - 1) * prefetch
        return RabbitmqConsumer(self, queue_name, prefetch, timeout, lambda: more if self.is_quick(queue_name) else 0)

    def report_outage(self, error: BaseException, *, first: bool, queue: str = "") -> None:
        """Say once that the broker is away; end the worker if it was never there and refuses us.

        A worker that is refused later waits: its jobs are safe, and the right may be given back.
        """
        self._tell(error)
        if isinstance(error, DeclarationRefused) or is_misconfigured(error):
            # Another queue's consumer may have connected before the login was withdrawn.
            concerns_queue = isinstance(error, DeclarationRefused | pika.exceptions.ChannelClosedByBroker)
            if first and (concerns_queue or not self._was_let_in):
                self.give_up(error)
            else:
                self.refusals.report(f"RabbitMQ ({queue})", self._describe(error))
        elif not self._outage_reported:
            self._outage_reported = True
            log.warning("%s; trying again until it answers", self.connection_settings.describe(error))

    def report_connected(self, queue: str = "") -> None:
        """The outage, if there was one, is over."""
        self._outage_reported, self._was_let_in = False, True
        self.refusals.clear(f"RabbitMQ ({queue})")

    def give_up(self, error: BaseException) -> None:
        """Stop the worker gracefully; its process then exits with status 78."""
        if self._fatal is None:
            self._tell(error)
            self._fatal = error
            self.stopping.set()
            log.critical("%s", self._describe(error))
            os.kill(os.getpid(), signal.SIGTERM)

    def _tell(self, error: BaseException) -> None:
        for hook in self.error_hooks:
            hook(error if isinstance(error, JobkitError) else BrokerUnavailable(self._describe(error)))

    def _describe(self, error: BaseException) -> str:
        return str(error) if isinstance(error, JobkitError) else self.connection_settings.describe(error)

    def close(self) -> None:
        """Close the publishing connection; raises ``SystemExit`` if the worker had to give up."""
        self._sender.close()
        super().close()
        if self._fatal is not None:
            raise SystemExit(EXIT_MISCONFIGURED)

    def get_queue_message_counts(self, queue_name: str) -> tuple[int, int, int]:
        """Messages ready in the queue, 0 for Dramatiq's delay queue, and those in the dead-letter queue.

        Delayed messages are not counted. AMQP does not tell how many of them are due and wait for a full queue:
        RabbitMQ's management API counts them in ``due.<queue>``.
        """
        with self.connection_settings.open() as connection:
            channel = connection.channel()
            ready = channel.queue_declare(queue_name, passive=True).method.message_count
            dead = channel.queue_declare(topology.dead_letter_queue(queue_name), passive=True).method.message_count
            return ready, 0, dead

    def flush(self, queue_name: str) -> None:
        """Drop all messages that wait in the queue; dead letters stay."""
        with self.connection_settings.open() as connection:
            connection.channel().queue_purge(queue_name)
