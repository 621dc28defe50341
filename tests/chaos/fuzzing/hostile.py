"""A hostile message: what is sent, and what must become of it.

A message is a draft that one kind of malice has edited. Unedited it is a good job; where the kind's fate is not
``done`` its payload is out of contract, so that what gets past its guard is found by its reason.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from random import Random

import pika

from jobkit.contracts import Job
from jobkit.deadletters import Reason

#: It ran to its end, once.
DONE = "done"
#: It was answered from a record: no second run, no second dead letter.
ANSWERED = "answered"


@dataclass(frozen=True)
class Target:
    """A queue, and a job that may be sent to it.

    Attributes:
        queue: A service's queue or one of its lanes.
        job: A good one, and a quick one.
        foreign: An actor that runs elsewhere.
        nasty: What its contract lets through and its handler has to stop.
    """

    queue: str
    job: Job
    foreign: str
    nasty: "tuple[Kind, ...]" = ()

    @property
    def service(self) -> str:
        """Whose queue it is."""
        return self.queue.partition(".")[0]


@dataclass
class Draft:
    """A message that is being forged.

    Attributes:
        draw: Where its randomness comes from.
        token: Its id, by which its dead letter or its end is found.
        fields: The envelope, unless ``body`` is set.
        properties: As pika encodes them.
    """

    draw: Random
    target: Target
    token: str
    fields: dict[str, object]
    properties: pika.BasicProperties
    body: bytes | None = None


Edit = Callable[[Draft], object]


@dataclass(frozen=True)
class Kind:
    """One kind of malice.

    Attributes:
        fates: What may become of it; more than one only where the broker's clock decides.
        rarity: It is drawn so many times less often than others: it is large, or its good job takes long.
    """

    name: str
    fates: tuple[str, ...]
    edit: Edit
    rarity: int = 1


@dataclass(frozen=True)
class Hostile:
    """A message to be published.

    Attributes:
        late: It is published when what came before it has been settled.
    """

    kind: str
    queue: str
    token: str
    fates: tuple[str, ...]
    body: bytes = field(repr=False)
    properties: pika.BasicProperties = field(repr=False)
    late: bool = False


def draft(target: Target, token: str, draw: Random, *, good: bool) -> Draft:
    """A message before it is edited."""
    payload = target.job.model_dump(mode="json")
    fields = {
        "queue_name": target.queue,
        "actor_name": target.job.actor,
        "args": [],
        "kwargs": payload if good else {**payload, _a_text_in(payload): {"unasked": token}},
        "options": {},
        "message_id": token,
        "message_timestamp": int(time.time() * 1000),
    }
    return Draft(draw, target, token, fields, pika.BasicProperties(message_id=token, delivery_mode=2))


def _a_text_in(payload: Mapping[str, object]) -> str:
    return next(name for name, value in payload.items() if isinstance(value, str))


def finish(kind: str, drafted: Draft, *fates: str, late: bool = False) -> Hostile:
    """The message that a draft has become."""
    written = json.dumps(drafted.fields).encode() if drafted.body is None else drafted.body
    return Hostile(kind, drafted.target.queue, drafted.token, fates, written, drafted.properties, late)


def forge(kind: Kind, target: Target, token: str, draw: Random) -> Iterator[Hostile]:
    """The message of a kind."""
    drafted = draft(target, token, draw, good=kind.fates == (DONE,))
    kind.edit(drafted)
    yield finish(kind.name, drafted, *kind.fates)


# What an edit may do --------------------------------------------------------------------------------


def untouched(_: Draft) -> None:
    """Leave it as it is."""


def body(write: Callable[[Draft], bytes]) -> Edit:
    """Bytes in place of the envelope."""
    return lambda d: setattr(d, "body", write(d))


def text(write: Callable[[str], str]) -> Edit:
    """The envelope's JSON, rewritten."""
    return lambda d: setattr(d, "body", write(json.dumps(d.fields)).encode("utf-8", "surrogatepass"))


def envelope(name: str, value: object) -> Edit:
    """One field of the envelope."""
    return lambda d: d.fields.__setitem__(name, value)


def without(name: str) -> Edit:
    """One field less."""
    return lambda d: d.fields.__delitem__(name)


def option(name: str, value: object) -> Edit:
    """One of the message's options."""
    return lambda d: d.fields.__setitem__("options", {name: value})


def headers(**values: object) -> Edit:
    """AMQP headers; an underscore stands for a hyphen."""
    return lambda d: setattr(d.properties, "headers", {name.replace("_", "-"): v for name, v in values.items()})


def properties(**values: object) -> Edit:
    """AMQP properties."""
    return lambda d: vars(d.properties).update(values)


UNDECODABLE = (Reason.UNDECODABLE.value,)
BAD_PAYLOAD = (Reason.BAD_PAYLOAD.value,)
UNKNOWN_ACTOR = (Reason.UNKNOWN_ACTOR.value,)
NEWER_CONTRACT = (Reason.NEWER_CONTRACT.value,)
TOO_LARGE = (Reason.TOO_LARGE.value,)
LEGAL = (DONE,)
