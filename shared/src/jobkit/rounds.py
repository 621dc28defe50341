"""The round of a job: how often its dead letter was sent again, which tells such a message from a redelivery.

A message's identity is the moment of its send and its round, which is 0 when it is sent. Whoever sends a dead letter
again raises it.
"""

from collections.abc import Mapping
from typing import Final, TypeGuard

#: The option of a message that carries its round, if it is above 0. ``round`` was taken: version 0.1 reads milliseconds
#: there.
ROUND_OPTION: Final = "job_round"

#: Rounds that somebody may write into a message; more is nonsense.
END_OF_ROUNDS: Final = 2**31

#: The rounds above 0 that a job has run in, by the moments of its sends; in order of their first run.
Rounds = tuple[tuple[int, int], ...]


def said_round(options: Mapping[str, object]) -> int:
    """Return the round that a message's options name; 0 if they name none."""
    said = options.get(ROUND_OPTION)
    return said if is_round(said) else 0


def is_round(value: object) -> TypeGuard[int]:
    """Whether a value that anybody may have written can be a round."""
    return type(value) is int and 0 <= value < END_OF_ROUNDS


def round_of(rounds: Rounds, moment: int) -> int:
    """Return the highest round that a job has run in of the send at ``moment``."""
    return next((number for sent_at, number in rounds if sent_at == moment), 0)


def with_round(rounds: Rounds, moment: int, number: int, most: int) -> Rounds:
    """Return ``rounds`` with a run in this round, without the oldest of more than ``most``."""
    if number <= round_of(rounds, moment):
        return rounds
    return (*((sent_at, before) for sent_at, before in rounds if sent_at != moment), (moment, number))[-most:]


def written(rounds: Rounds) -> str:
    """Return the rounds as a record in Redis has them: ``,1790000000000:1,``; empty if there are none."""
    return f",{','.join(f'{moment}:{number}' for moment, number in rounds)}," if rounds else ""


def read(text: str) -> Rounds:
    """Return the rounds that were written."""
    if not text:
        return ()  # of nearly all jobs
    pairs = (pair.split(":") for pair in text.split(",") if pair)
    return tuple((int(moment), int(number)) for moment, number in pairs)
