"""Ids that were used before: of a job that is done, that runs, that is dead; with another payload or actor."""

import copy
import time
from collections.abc import Callable, Iterator
from random import Random

from hostile import ANSWERED, BAD_PAYLOAD, DONE, UNDECODABLE, UNKNOWN_ACTOR, Draft, Hostile, Target, draft, finish

Echo = Callable[[Target, str, Random], Iterator[Hostile]]


def _same_again(target: Target, token: str, draw: Random) -> Iterator[Hostile]:
    first = draft(target, token, draw, good=True)
    yield finish("a good job, three times", first, DONE)
    yield finish("a good job, three times", first, ANSWERED)
    yield finish("a good job, three times", first, ANSWERED)


def _other_payload(target: Target, token: str, draw: Random) -> Iterator[Hostile]:
    yield finish("the id of a job, first", draft(target, token, draw, good=True), DONE)
    other = draft(target, token, draw, good=False)
    yield finish("the id of a job, another payload", other, ANSWERED, late=True)


def _claims_death(target: Target, token: str, draw: Random) -> Iterator[Hostile]:
    first = draft(target, token, draw, good=True)
    yield finish("the id of a job, first", first, DONE)
    again = copy.deepcopy(first)
    again.properties.headers = {"failure-reason": "poison", "x-death": [{"reason": "rejected", "queue": target.queue}]}
    yield finish("the id of a job, said to have been dead", again, ANSWERED, late=True)


def _dead_again(target: Target, token: str, draw: Random) -> Iterator[Hostile]:
    first = draft(target, token, draw, good=False)
    yield finish("a dead job", first, *BAD_PAYLOAD)
    yield finish("a dead job, delivered again", first, ANSWERED)


def _dead_anew(target: Target, token: str, draw: Random) -> Iterator[Hostile]:
    first, anew = draft(target, token, draw, good=False), draft(target, token, draw, good=False)
    anew.fields["message_timestamp"] = int(time.time() * 1000) + 1000
    yield finish("a dead job, first", first, *BAD_PAYLOAD)
    yield finish("a dead job, sent again", anew, *BAD_PAYLOAD, late=True)


def _other_actor(target: Target, token: str, draw: Random) -> Iterator[Hostile]:
    other: Draft = draft(target, token, draw, good=True)
    other.fields["actor_name"] = target.foreign
    yield finish("the id of a job, another actor", other, *UNKNOWN_ACTOR)
    yield finish("the id of a job, first", draft(target, token, draw, good=True), DONE)


def _no_message(target: Target, token: str, draw: Random) -> Iterator[Hostile]:
    nothing = draft(target, token, draw, good=True)
    nothing.body = b"{"
    yield finish("the id of a job, and no message", nothing, *UNDECODABLE)
    yield finish("the id of a job, first", draft(target, token, draw, good=True), DONE)


#: Each yields all messages of one id.
ECHOES: tuple[Echo, ...] = (
    _same_again,
    _other_payload,
    _claims_death,
    _dead_again,
    _dead_anew,
    _other_actor,
    _no_message,
)
