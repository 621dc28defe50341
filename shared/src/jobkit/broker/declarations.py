"""Declaring queues and exchanges in few round trips, also as a user who may not: what exists is used as it is.

RabbitMQ answers 403 to a declaration without the ``configure`` permission, also if it would change nothing, and closes
the channel. A passive declaration needs no permission (https://www.rabbitmq.com/docs/access-control#authorisation).
Bindings cannot be looked up over AMQP, so they are made each time.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import pika.exceptions
from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection
from pika.channel import Channel

from jobkit.broker import due, ladder, topology
from jobkit.errors import DeclarationRefused

_ACCESS_REFUSED: Final = 403
_NOT_FOUND: Final = 404

#: In RabbitMQ's words: ``NOT_FOUND - no queue 'email' in vhost '/'``.
_MISSING: Final = re.compile(r"no ((?:queue|exchange) '.*') in vhost")

#: RabbitMQ says so (with a 404) of a queue that another client is making at this moment, too.
_BEING_MADE: Final = "is down or inaccessible"

#: Seconds between the attempts to declare such a queue.
_PAUSES: Final = (0.1, 0.3, 1.0)


@dataclass(frozen=True, slots=True)
class Step:
    """One declaration.

    Attributes:
        what: Its subject, for messages.
        make: Declares it on a channel, without waiting for the answer.
        look: Asks whether it exists, without waiting for the answer; None for a binding, which nobody can ask for.
    """

    what: str
    make: Callable[[Channel], object]
    look: Callable[[Channel], object] | None


class Plan:
    """Notes declarations, to be carried out later. It has what ``topology.Declares`` asks of a channel."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def exchange_declare(
        self,
        exchange: str,
        kind: str,
        /,
        *,
        durable: bool,
        internal: bool = False,
        arguments: dict[str, Any] | None = None,  # Any: AMQP's fields
    ) -> None:
        """Note an exchange."""
        self._add(
            f"exchange {exchange!r}",
            lambda c: c.exchange_declare(exchange, kind, durable=durable, internal=internal, arguments=arguments),
            lambda c: c.exchange_declare(exchange, passive=True),
        )

    def queue_declare(self, queue: str, /, *, durable: bool, arguments: dict[str, Any]) -> None:  # Any: AMQP's fields
        """Note a queue."""
        self._add(
            f"queue {queue!r}",
            lambda c: c.queue_declare(queue, durable=durable, arguments=arguments),
            lambda c: c.queue_declare(queue, passive=True),
        )

    def queue_bind(self, queue: str, exchange: str, routing_key: str = "", /) -> None:
        """Note the binding of a queue."""
        what = f"queue {queue!r} to exchange {exchange!r}"
        self._add(what, lambda c: c.queue_bind(queue, exchange, routing_key), None)

    def exchange_bind(self, destination: str, source: str, routing_key: str, /) -> None:
        """Note the binding of an exchange."""
        what = f"exchange {destination!r} to exchange {source!r}"
        self._add(what, lambda c: c.exchange_bind(destination, source, routing_key), None)

    def _add(self, what: str, make: Callable[[Channel], object], look: Callable[[Channel], object] | None) -> None:
        self.steps.append(Step(what, make, look))


@dataclass(frozen=True, slots=True)
class Part:
    """Declarations that belong together.

    Attributes:
        steps: In their order.
        shared: After a refusal, all are only looked at: each refusal costs a channel, and these are many.
        optional: Jobs run without it, as they did before it was introduced.
    """

    steps: Sequence[Step]
    shared: bool = False
    optional: bool = False


def shared_parts() -> list[Part]:
    """Return what all services of a virtual host share: the delay ladder, and the exchange for what is due."""
    return [
        Part(_steps(ladder.declare_ladder), shared=True),
        Part(_steps(due.declare_exchange), shared=True, optional=True),
    ]


def parts_of(queue: str) -> list[Part]:
    """Return what a queue needs of its own."""

    def with_its_delays(plan: topology.Declares) -> None:
        topology.declare_queue(plan, queue)
        ladder.bind(plan, queue)

    return [
        Part(_steps(with_its_delays)),
        Part(_steps(partial(topology.declare_jobs_exchange, queue=queue)), optional=True),
        Part(_steps(partial(due.declare_queue, queue=queue)), optional=True),
    ]


def needed_to_be_due(queue: str) -> set[str]:
    """Return the subjects of the steps without which no delayed message reaches the due queue of ``queue``."""
    return {step.what for step in (*_steps(due.declare_exchange), *_steps(partial(due.declare_queue, queue=queue)))}


@dataclass(slots=True)
class Outcome:
    """What a user could not declare.

    Attributes:
        not_compared: What exists, and may have other arguments than jobkit's.
        not_bound: What may lack a binding: AMQP cannot tell whether one exists.
        missing: What does not exist, and is optional.
    """

    not_compared: list[str] = field(default_factory=list)
    not_bound: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def sentences(self) -> dict[str, str]:
        """Return both in words, by their kind; nothing if all was declared."""
        told = {}
        if self.not_compared:
            told["not compared"] = (
                f"the user in JOBKIT_BROKER_URL may not declare {_and_more(self.not_compared)}; they are used as they "
                "are, and their arguments were not compared with jobkit's"
            )
        if self.not_bound:
            told["not bound"] = (
                f"the user in JOBKIT_BROKER_URL may not bind {_and_more(self.not_bound)}. AMQP cannot tell whether a "
                "binding exists: without it, delayed jobs and retries do not arrive. Let an administrator's worker "
                "declare it, or import the definitions (jobkit definitions)"
            )
        if self.missing:
            told["missing"] = (
                f"RabbitMQ has no {' and no '.join(self.missing)}: until the definitions are imported (jobkit "
                "definitions), jobs take the way of earlier versions, where a full or deleted queue can hold up the "
                "delayed jobs of others"
            )
        return told


def _and_more(things: list[str]) -> str:
    return things[0] + (f" and {len(things) - 1} more" if len(things) > 1 else "")


def declare(connection: BlockingConnection, queues: Iterable[str]) -> str:
    """Make the queues with the delay ladder and what binds them, unless they exist.

    Returns:
        What exists and could not be compared, and what could not be bound, as the user lacks the permission: one line.
        It is empty if all was declared.

    Raises:
        TopologyMismatch: Something exists with other arguments.
        DeclarationRefused: Something does not exist, and the user may not make it.
    """
    parts = [*shared_parts(), *(part for queue in queues for part in parts_of(queue))]
    return "; ".join(carry_out(connection, parts).sentences().values())


def carry_out(connection: BlockingConnection, parts: Sequence[Part]) -> Outcome:
    """Make what the parts hold, unless it exists: in one go, and step by step only if something is refused.

    Raises:
        TopologyMismatch: Something exists with other arguments.
        DeclarationRefused: Something does not exist, and the user may not make it.
    """
    outcome = Outcome()
    refusal = _in_one_go_or_soon(connection, [step.make for part in parts for step in part.steps])
    if refusal is not None:
        for part in parts:
            (_make_all_or_look if part.shared else _make_or_look)(connection, part, outcome)
    return outcome


def look_for(connection: BlockingConnection, parts: Iterable[Part]) -> Outcome:
    """Look whether everything exists, and make nothing.

    Raises:
        DeclarationRefused: Something that is not optional does not exist.
    """
    outcome = Outcome()
    for part in parts:
        _look(connection, part, "JOBKIT_DECLARE=never: import the definitions (jobkit definitions)", outcome)
    return outcome


def _steps(declare: Callable[[topology.Declares], None]) -> list[Step]:
    plan = Plan()
    declare(plan)
    return plan.steps


def _in_one_go_or_soon(
    connection: BlockingConnection, steps: Sequence[Callable[[Channel], object]]
) -> pika.exceptions.ChannelClosedByBroker | None:
    """Do as ``_in_one_go`` does; wait a little for queues that others are making."""
    for pause in _PAUSES:
        try:
            return _in_one_go(connection, steps)
        except pika.exceptions.ChannelClosedByBroker as error:
            if error.reply_code != _NOT_FOUND or _BEING_MADE not in error.reply_text:
                raise
            connection.sleep(pause)
    return _in_one_go(connection, steps)


def _in_one_go(
    connection: BlockingConnection, steps: Iterable[Callable[[Channel], object]]
) -> pika.exceptions.ChannelClosedByBroker | None:
    """Send all steps without waiting in between; return the refusal if the user lacks a permission.

    Raises:
        TopologyMismatch: Something exists with other arguments.
        ChannelClosedByBroker: Something does not exist, or cannot be made now.
    """
    channel: BlockingChannel = connection.channel()
    try:
        for step in steps:
            step(channel._impl)  # pika's blocking channel offers no declaration without an answer
        channel.basic_qos(prefetch_count=1)  # answered after all before it
        channel.close()
    except pika.exceptions.ChannelClosedByBroker as error:
        if error.reply_code == _ACCESS_REFUSED:
            return error
        raise topology.explain_mismatch(error) from error
    return None


def _make_all_or_look(connection: BlockingConnection, part: Part, outcome: Outcome) -> None:
    things = [step for step in part.steps if step.look is not None]
    refusal = _in_one_go(connection, [step.make for step in things])
    if refusal is not None:
        if not _look(connection, part, _refused(refusal), outcome):
            return
        outcome.not_compared += [step.what for step in things]
    bindings = [step for step in part.steps if step.look is None]  # a user who may not declare may bind
    if _in_one_go(connection, [step.make for step in bindings]) is not None:
        outcome.not_bound += [step.what for step in bindings]


def _make_or_look(connection: BlockingConnection, part: Part, outcome: Outcome) -> None:
    for step in part.steps:
        refusal = _in_one_go(connection, [step.make])
        if refusal is None:
            continue
        if step.look is None:
            outcome.not_bound.append(step.what)
            continue
        if not _look(connection, Part([step], optional=part.optional), _refused(refusal), outcome):
            return  # what follows belongs to it
        outcome.not_compared.append(step.what)


def _look(connection: BlockingConnection, part: Part, reason: str, outcome: Outcome) -> bool:
    """Return whether all of it exists; raise ``DeclarationRefused`` if it does not, and is not optional."""
    try:
        _in_one_go(connection, [step.look for step in part.steps if step.look is not None])
    except pika.exceptions.ChannelClosedByBroker as error:
        if error.reply_code != _NOT_FOUND:
            raise
        found = _MISSING.search(error.reply_text)
        what = found[1] if found else error.reply_text
        if part.optional:
            outcome.missing.append(what)
            return False
        raise DeclarationRefused(f"RabbitMQ has no {what}, and {reason}") from error
    return True


def _refused(refusal: pika.exceptions.ChannelClosedByBroker) -> str:
    return (
        f"the user in JOBKIT_BROKER_URL may not make it ({refusal.reply_text}): give the user the permission, or "
        "import the definitions (jobkit definitions)"
    )
