"""Any number of jobs: confirmed and counted, or raised with those that were not, and never all in memory."""

import gc
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import timedelta

import pika
import pika.exceptions
import pytest
from probe_service import Probe
from queues import depth

from jobkit.errors import BrokerUnavailable, MessageTooLarge, SendRefused
from jobkit.producer import Producer
from jobkit.receipt import NotAllSent
from local_stack.rabbitmq import RabbitMQ


class Jobs:
    """Makes jobs one by one, and knows how many were made."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.made = 0

    def __iter__(self) -> Iterator[Probe]:
        for _ in range(self.number):
            self.made += 1
            yield Probe(name=str(self.made))


def test_the_deadline_counts_from_the_last_confirm(vhost_url: str) -> None:
    with Producer(vhost_url, timeout=1) as producer:
        sent = producer.send_many(Jobs(40_000))
    assert (sent.accepted, sent.taken, sent.refused) == (40_000, 40_000, ())
    assert depth(vhost_url, "probe") == 40_000


def test_no_more_than_a_window_of_jobs_is_read_ahead_of_their_confirms(producer: Producer) -> None:
    jobs = Jobs(5_000)
    ahead = [jobs.made - number for number, _ in enumerate(producer.send_many(jobs, receipts=True), start=1)]
    assert len(ahead) == 5_000
    assert max(ahead) <= 2_000  # 1,000 receipts were gathered, and 1,000 jobs are on their way


def test_a_delayed_batch_makes_its_queue_first(producer: Producer, vhost_url: str) -> None:
    assert producer.send_many(Jobs(100), delay=timedelta(hours=1)).accepted == 100
    assert depth(vhost_url, "probe") == 0


def test_the_ids_of_the_receipts_are_those_of_the_messages(producer: Producer, vhost_url: str) -> None:
    receipts = list(producer.send_many(Jobs(50), receipts=True, lane="high"))
    with pika.BlockingConnection(pika.URLParameters(vhost_url)) as connection:
        bodies = [connection.channel().basic_get("probe.high")[2] for _ in range(50)]
    assert {json.loads(body or b"{}")["message_id"] for body in bodies} == {receipt.job_id for receipt in receipts}


def read(receipts: Iterable[object], number: int, then: Callable[[], None]) -> None:
    """Read all, and do something when so many are read."""
    for read, _receipt in enumerate(receipts, start=1):
        if read == number:
            then()


@pytest.fixture
def full_queue(vhost_url: str) -> str:
    """The address of a broker whose queue ``probe`` is full."""
    with pika.BlockingConnection(pika.URLParameters(vhost_url)) as connection:
        channel = connection.channel()
        full = {"x-queue-type": "quorum", "x-max-length": 1, "x-overflow": "reject-publish"}
        channel.queue_declare("probe", durable=True, arguments=full)
        channel.confirm_delivery()
        with suppress(pika.exceptions.NackError):
            for _ in range(100):  # a quorum queue lets a few in before it notices
                channel.basic_publish("", "probe", b"{}")
    return vhost_url


def test_jobs_that_were_refused_are_named_with_the_id_to_send_them_again_under(full_queue: str) -> None:
    jobs = Jobs(60)
    with Producer(full_queue) as producer, pytest.raises(NotAllSent, match=r"of 60 jobs were not confirmed") as refusal:
        producer.send_many(jobs)
    error = refusal.value
    assert error.taken == jobs.made == 60
    assert error.accepted < 60
    assert len(error.refused) == 60 - error.accepted
    assert all(isinstance(one.error, SendRefused) for one in error.refused)
    assert "is full" in str(error)
    with pika.BlockingConnection(pika.URLParameters(full_queue)) as connection:
        connection.channel().queue_purge("probe")
        with Producer(full_queue) as producer:
            again = error.refused[0]
            producer.send(again.job, job_id=again.job_id)
        body = connection.channel().basic_get("probe")[2]
    assert json.loads(body or b"{}")["message_id"] == again.job_id


def test_after_a_thousand_refused_jobs_no_further_ones_are_read(full_queue: str) -> None:
    jobs = Jobs(1_000_000)
    with Producer(full_queue) as producer, pytest.raises(NotAllSent, match="further jobs were not read") as refusal:
        producer.send_many(jobs)
    assert len(refusal.value.refused) == 1_000
    assert refusal.value.taken == jobs.made < 3_000


def test_a_broker_that_no_longer_answers_ends_the_reading(vhost_url: str, rabbitmq: RabbitMQ) -> None:
    jobs = Jobs(1_000_000)
    with Producer(vhost_url, timeout=1) as producer:
        try:
            with pytest.raises(NotAllSent, match="no confirm came") as outage:
                read(producer.send_many(jobs, receipts=True), 3_000, rabbitmq.pause)
        finally:
            rabbitmq.resume()
        assert outage.value.accepted >= 3_000
        assert outage.value.taken == jobs.made < 10_000
        assert isinstance(outage.value.refused[0].error, BrokerUnavailable)
        producer.send(Probe())  # it goes on when the broker does


def test_a_job_that_cannot_be_sent_does_not_keep_the_others_from_it(vhost_url: str) -> None:
    jobs = [Probe(name="a"), Probe(name="b" * 3_000), Probe(name="c")]
    with Producer(vhost_url, max_bytes=2_000) as producer, pytest.raises(NotAllSent) as refusal:
        producer.send_many(jobs)
    assert depth(vhost_url, "probe") == refusal.value.accepted == 2
    (refused,) = refusal.value.refused
    assert refused.job is jobs[1]
    assert isinstance(refused.error, MessageTooLarge)


def test_an_error_of_whoever_makes_the_jobs_is_raised_once_those_before_it_are_confirmed(
    producer: Producer, vhost_url: str
) -> None:
    def failing() -> Iterator[Probe]:
        yield from (Probe() for _ in range(7))
        raise LookupError("the cursor is closed")

    with pytest.raises(LookupError, match="cursor is closed") as error:
        producer.send_many(failing())
    assert depth(vhost_url, "probe") == 7
    assert error.value.__notes__ == ["send_many had sent 7 jobs by then, 7 are confirmed"]


def test_an_error_of_whoever_makes_the_jobs_keeps_those_that_were_refused_before_it(vhost_url: str) -> None:
    def failing() -> Iterator[Probe]:
        yield from (Probe(name="small"), Probe(name="x" * 3_000), Probe(name="small"))
        raise LookupError("the cursor is closed")

    with Producer(vhost_url, max_bytes=2_000) as producer, pytest.raises(LookupError) as error:
        producer.send_many(failing())
    assert "2 are confirmed; the 1 others are in .refused" in error.value.__notes__[0]
    (refusal,) = error.value.refused  # type: ignore[attr-defined]  # send_many has added it
    assert (refusal.job.name, type(refusal.error)) == ("x" * 3_000, MessageTooLarge)
    assert error.value.sent.accepted == 2  # type: ignore[attr-defined]  # the same


def test_a_job_is_published_before_the_next_one_is_there(producer: Producer, vhost_url: str) -> None:
    seen, go_on = threading.Event(), threading.Event()

    def slow() -> Iterator[Probe]:
        yield Probe()
        seen.set()
        assert go_on.wait(20)
        yield Probe()

    producer.send(Probe())
    sending = threading.Thread(target=lambda: producer.send_many(slow()))
    sending.start()
    assert seen.wait(10)
    try:
        for _ in range(200):
            if depth(vhost_url, "probe") == 2:
                break
        assert depth(vhost_url, "probe") == 2
    finally:
        go_on.set()
        sending.join(10)
    assert depth(vhost_url, "probe") == 3


def test_jobs_are_sent_although_nobody_reads_their_receipts(producer: Producer, vhost_url: str) -> None:
    producer.send_many(Jobs(5), receipts=True)
    assert depth(vhost_url, "probe") == 5


def test_jobs_that_are_not_sent_because_nobody_reads_their_receipts_are_warned_of(
    producer: Producer, vhost_url: str
) -> None:
    with pytest.warns(RuntimeWarning, match=r"not read to their end: [\d,]+ of [\d,]+ jobs"):
        producer.send_many(Jobs(5_000), receipts=True)
    assert 0 < depth(vhost_url, "probe") < 5_000


def test_an_error_that_nobody_reads_is_warned_of(vhost_url: str) -> None:
    def send_and_read_nothing() -> None:
        with Producer(vhost_url, max_bytes=2_000) as producer:
            producer.send_many([Probe(name="b" * 3_000)], receipts=True)
        gc.collect()  # from Python 3.13 on the receipts are part of a cycle

    with pytest.warns(RuntimeWarning, match="not read to their end: 0 of 1 jobs"):
        send_and_read_nothing()


def test_errors_come_after_the_receipts_of_what_was_confirmed(vhost_url: str) -> None:
    with Producer(vhost_url, max_bytes=2_000) as producer:
        receipts = producer.send_many([Probe(name="b" * 3_000), Probe()], receipts=True)
        assert next(receipts).queue == "probe"
        with pytest.raises(NotAllSent):
            next(receipts)
        with pytest.raises(StopIteration):
            next(receipts)
        assert (receipts.sent.accepted, receipts.sent.taken) == (1, 2)
