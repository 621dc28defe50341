"""The exchange in memory answers a stream as the one over RabbitMQ does."""

from collections.abc import Iterator

import pytest

from jobkit.broker.memory import MemoryBroker, MemoryExchange
from jobkit.contracts import Job
from jobkit.contracts.payload import PayloadChanged
from jobkit.errors import Unroutable
from jobkit.producer import Producer
from jobkit.receipt import NotAllSent


class Count(Job, queue="counting"):
    """Count so far."""

    number: int = 0


class Lost(Job, queue="nobody_takes_this"):
    """Nobody takes it."""


def jobs() -> Iterator[Job]:
    yield Count(number=1)
    yield Count(number=10**5_000)  # more digits than Python writes
    yield Lost()
    yield Count(number=2)


@pytest.fixture
def producer() -> Producer:
    exchange = MemoryExchange()
    MemoryBroker(exchange).declare_queue("counting")
    return Producer.over(exchange)


def test_a_job_that_cannot_be_sent_does_not_end_the_stream(producer: Producer) -> None:
    with pytest.raises(NotAllSent) as refusal:
        producer.send_many(jobs())
    assert (refusal.value.accepted, refusal.value.taken) == (2, 4)
    assert [type(one.error) for one in refusal.value.refused] == [PayloadChanged, Unroutable]


def failing(error: Exception) -> Iterator[Job]:
    yield from jobs()
    raise error


def test_an_error_of_whoever_makes_the_jobs_is_raised_with_the_counts(producer: Producer) -> None:
    with pytest.raises(LookupError) as error:
        producer.send_many(failing(LookupError("the cursor is closed")))
    assert error.value.__notes__ == ["send_many had sent 4 jobs by then, 2 are confirmed; the 2 others are in .refused"]
    assert len(error.value.refused) == 2  # type: ignore[attr-defined]  # send_many has added it


def test_an_error_that_takes_no_attributes_is_raised_as_it_is(producer: Producer) -> None:
    class Closed(Exception):
        def __setattr__(self, name: str, value: object) -> None:
            raise AttributeError(name)

    with pytest.raises(Closed):
        producer.send_many(failing(Closed("the cursor is closed")))
