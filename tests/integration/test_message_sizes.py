"""How large a message may be: as it was sent, and as the copy that runs again."""

from collections.abc import Iterator
from contextlib import closing

import pytest
from in_process import Ours, Work, until
from queues import depth, message_body, publish, wait_for_dead_letter, wait_for_queue, wait_until_empty

from jobkit.errors import MessageTooLarge, TransientError
from jobkit.producer import Producer
from jobkit.retry import fixed

LIMIT = 2_048  # bytes
RETRIES = 20


@pytest.fixture
def ours(vhost_url: str, redis_url: str) -> Iterator[Ours]:
    policy = fixed(0, attempts=RETRIES + 1)
    with closing(Ours(vhost_url, redis_url, retry=policy, max_message_bytes=LIMIT)) as built:
        yield built


def body_of(size: int, **options: object) -> bytes:
    """A message for ``work`` of exactly this many bytes."""

    def made(name: str) -> bytes:
        return message_body(queue_name="work", actor_name="work", kwargs={"name": name}, options=options)

    padded = made("x" * (size - len(made(""))))
    assert len(padded) == size
    return padded


def test_a_job_of_exactly_the_limit_survives_its_retries(ours: Ours, vhost_url: str) -> None:
    def fail(_name: str) -> None:
        if len(ours.runs) <= RETRIES:
            raise TransientError("busy")

    ours.do = fail
    with ours.working():
        wait_for_queue(vhost_url, "work")
        publish(vhost_url, "work", body_of(LIMIT))
        until(lambda: len(ours.ends) == 1, "it succeeds at last", limit=90)
    assert len(ours.runs) == RETRIES + 1
    assert depth(vhost_url, "work.dlq") == 0


def test_a_message_above_the_limit_is_a_dead_letter(ours: Ours, vhost_url: str) -> None:
    with ours.working():
        wait_for_queue(vhost_url, "work")
        publish(vhost_url, "work", body_of(LIMIT + 1))
        _, failure, _ = wait_for_dead_letter(vhost_url, "work")
    assert (failure.reason, ours.runs) == ("too_large", [])


@pytest.mark.parametrize(("size", "runs"), [(2 * LIMIT, 1), (2 * LIMIT + 1, 0)])
def test_a_copy_that_runs_again_has_room_up_to_twice_the_limit(
    ours: Ours, vhost_url: str, size: int, runs: int
) -> None:
    with ours.working():
        wait_for_queue(vhost_url, "work")
        publish(vhost_url, "work", body_of(size, deferred=True))
        wait_until_empty(vhost_url, "work")
        until(lambda: len(ours.ends) == runs and depth(vhost_url, "work.dlq") == 1 - runs, "it has come to its end")


def test_a_producer_refuses_what_is_above_the_limit(ours: Ours, vhost_url: str) -> None:
    with Producer(vhost_url, max_bytes=LIMIT) as producer, pytest.raises(MessageTooLarge):
        producer.send(Work(name="x" * LIMIT))
