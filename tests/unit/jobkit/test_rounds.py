"""The round of a job: written down and read again, and passed on by whatever follows from a run."""

import pytest
from dramatiq import Message
from hypothesis import given
from hypothesis import strategies as st

from jobkit.execution import Execution, after_a_run, for_later, in_round, without_history
from jobkit.rounds import ROUND_OPTION, Rounds, read, round_of, said_round, with_round, written
from jobkit.store.base import JobKey, Lease

SENT = 1_700_000_000_000
KEY = JobKey("work", "work", "a")

pairs = st.lists(
    st.tuples(st.integers(0, 2**53), st.integers(1, 2**31 - 1)), max_size=16, unique_by=lambda pair: pair[0]
)


def message_of(job_round: int) -> "Message[object]":
    return in_round(Message("work", "work", (), {}, {}, "a", SENT), job_round)


@given(pairs.map(tuple))
def test_rounds_are_read_as_they_were_written(rounds: Rounds) -> None:
    assert read(written(rounds)) == rounds


def test_a_round_replaces_the_lower_one_of_its_send_and_no_higher_one() -> None:
    rounds = with_round(with_round((), 7, 1, most=3), 8, 1, most=3)
    assert with_round(rounds, 7, 2, most=3) == ((8, 1), (7, 2))
    assert with_round(rounds, 7, 1, most=3) == rounds
    assert with_round(rounds, 9, 0, most=3) == rounds
    assert with_round(with_round(rounds, 9, 1, most=3), 10, 1, most=3) == ((8, 1), (9, 1), (10, 1))
    assert (round_of(rounds, 8), round_of(rounds, 9)) == (1, 0)


def test_a_message_that_was_only_sent_says_no_round() -> None:
    assert message_of(0).options == {}
    assert (said_round(message_of(0).options), said_round(message_of(3).options)) == (0, 3)


def test_every_copy_of_a_message_has_its_round() -> None:
    message = message_of(3)
    for copy in (
        for_later(message),
        after_a_run(message),
        without_history(message),
        without_history(for_later(message)),
    ):
        assert copy.options[ROUND_OPTION] == 3


@pytest.mark.parametrize(("said", "has_run_in", "due"), [(0, 0, 0), (1, 1, 1), (0, 2, 2)])
def test_what_follows_from_a_run_is_in_the_highest_round_that_its_job_has_run_in(
    said: int, has_run_in: int, due: int
) -> None:
    message = message_of(said)
    execution = Execution(message, KEY, "owner")
    assert execution.round == said
    execution.begin_under(Lease(KEY, "owner", 1, 1, sent_at=SENT, rounds=((SENT - 1, 9), (SENT, has_run_in))))
    assert execution.round == said_round(execution.message.options) == due
    assert said_round(message.options) == said, "what the broker delivers again is as it was"
