"""Whoever sends drives the connection, and the others follow. What becomes of the one that leads harms nobody else."""

import ctypes
import json
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pika
import pytest
from dramatiq.middleware import Interrupt
from probe_service import Probe
from sockets import connections, cut

from jobkit.broker.confirmed_channel import ConfirmedChannel
from jobkit.broker.loop import SteppedLoop
from jobkit.broker.publishing_connection import PublishingConnection
from jobkit.errors import BrokerUnavailable
from jobkit.producer import Producer

THREADS = 8

#: The thread that connects, and drives the connection when nobody sends.
KEEPER = "jobkit-publisher"


class Stopped(Interrupt):
    """What a worker raises in the thread of a job."""


def ids_in(url: str) -> list[str]:
    """Take all jobs out of the queue."""
    found: list[str] = []
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        while True:
            _method, _properties, body = channel.basic_get("probe", auto_ack=True)
            if body is None:
                return found
            found.append(json.loads(body)["message_id"])


class Senders:
    """Threads that send one job after the other, and note what was confirmed and what was raised."""

    def __init__(self, producer: Producer, count: int = THREADS) -> None:
        self.confirmed: list[str] = []
        self.raised: list[BaseException] = []
        self.stopping = False
        self._producer = producer
        self.threads = [threading.Thread(target=self._send_on) for _ in range(count)]
        for thread in self.threads:
            thread.start()

    def until_confirmed(self, more: int) -> None:
        goal, deadline = len(self.confirmed) + more, time.monotonic() + 30
        while len(self.confirmed) < goal:
            assert time.monotonic() < deadline, f"{len(self.confirmed)} of {goal} were confirmed"
            time.sleep(0.001)

    def end(self) -> None:
        self.stopping = True
        for thread in self.threads:
            thread.join(30)
            assert not thread.is_alive()

    def _send_on(self) -> None:
        while not self.stopping:
            try:
                self.confirmed.append(self._producer.send(Probe()).job_id)
            except BaseException as error:
                self.raised.append(error)


@contextmanager
def once(kind: type, method: str, instead: Callable[..., object]) -> Iterator[threading.Event]:
    """Call ``instead`` before the method, with its arguments, until it has raised; when the returned event is set."""
    original, armed = getattr(kind, method), threading.Event()

    def wrapped(*arguments: object) -> object:
        if armed.is_set() and threading.current_thread().name != KEEPER:  # whom nobody interrupts
            try:
                instead(*arguments)
            except BaseException:
                armed.clear()
                raise
        return original(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, method, wrapped)
        yield armed


def interrupted_before_it_is_written(connection: PublishingConnection) -> None:
    if connection._frames:
        connection._frames.clear()
        raise Stopped


def interrupted_before_it_is_read(_connection: PublishingConnection, _data: bytes) -> None:
    raise Stopped


def test_a_lone_send_reads_its_own_confirm(vhost_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    readers: list[str] = []
    original = ConfirmedChannel.on_confirm

    def noted(channel: ConfirmedChannel, tag: int, multiple: bool, taken: bool) -> None:
        readers.append(threading.current_thread().name)
        original(channel, tag, multiple, taken)

    monkeypatch.setattr(ConfirmedChannel, "on_confirm", noted)
    with Producer(vhost_url) as producer:
        producer.send(Probe())  # makes the queue
        readers.clear()
        for _ in range(50):
            producer.send(Probe())
    assert len(readers) == 50
    assert readers.count(threading.current_thread().name) >= 45  # the keeper looks, too, once a second


@pytest.mark.parametrize(
    ("method", "instead"),
    [("flush", interrupted_before_it_is_written), ("_on_data_available", interrupted_before_it_is_read)],
    ids=["writing", "reading"],
)
def test_an_interrupt_in_the_middle_of_the_leaders_work_costs_its_followers_nothing(
    vhost_url: str, method: str, instead: Callable[..., None]
) -> None:
    with Producer(vhost_url) as producer:
        producer.send(Probe())
        ids_in(vhost_url)
        with once(PublishingConnection, method, instead) as armed:
            senders = Senders(producer)
            for _ in range(5):
                senders.until_confirmed(50)
                armed.set()
                senders.until_confirmed(50)
            senders.end()
        assert [type(error) for error in senders.raised] == [Stopped] * 5
        found = ids_in(vhost_url)
    assert set(senders.confirmed) <= set(found)


def test_an_interrupt_while_the_leader_waits_keeps_the_connection(vhost_url: str) -> None:
    port = urlsplit(vhost_url).port or 0

    def interrupt(*_arguments: object) -> None:
        raise KeyboardInterrupt

    with Producer(vhost_url) as producer:
        producer.send(Probe())
        before = connections(port)
        with once(SteppedLoop, "wait", interrupt) as armed:
            armed.set()
            with pytest.raises(KeyboardInterrupt):
                producer.send(Probe())
        producer.send(Probe())
        assert connections(port) == before


def test_threads_that_are_interrupted_anywhere_lose_no_job_of_others(vhost_url: str) -> None:
    """As on Python 3.11, where a job's time limit may land between any two steps of its thread."""
    raised = 0
    with Producer(vhost_url, timeout=20) as producer:
        producer.send(Probe())
        ids_in(vhost_url)
        senders = Senders(producer)
        for _ in range(60):
            senders.until_confirmed(random.randint(1, 20))
            victim = random.choice(senders.threads[:4]).ident
            assert victim is not None
            raised += ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(victim), ctypes.py_object(Stopped))
            senders.until_confirmed(5)
        senders.end()
        found = ids_in(vhost_url)
    assert raised == 60
    assert {type(error) for error in senders.raised} == {Stopped}
    assert set(senders.confirmed) <= set(found)
    assert len(set(found) - set(senders.confirmed)) <= len(senders.raised)


def test_each_send_gets_its_own_answer_although_connections_die_under_their_leaders(vhost_url: str) -> None:
    port = urlsplit(vhost_url).port or 0
    with Producer(vhost_url, timeout=20) as producer:
        producer.send(Probe())
        ids_in(vhost_url)
        senders = Senders(producer)
        for _ in range(8):
            senders.until_confirmed(60)
            assert cut(port) == 1
        senders.until_confirmed(60)
        senders.end()
        assert senders.raised == []
        found = ids_in(vhost_url)
    assert len(set(senders.confirmed)) == len(senders.confirmed)
    assert set(found) == set(senders.confirmed)


def test_an_idle_connection_outlives_three_heartbeats(vhost_url: str) -> None:
    port = urlsplit(vhost_url).port or 0
    with Producer(f"{vhost_url}?heartbeat=1") as producer:
        producer.send(Probe())
        before = connections(port)
        assert len(before) == 1
        end = time.monotonic() + 4
        while time.monotonic() < end:
            assert connections(port) == before
            time.sleep(0.05)
        producer.send(Probe())
        assert connections(port) == before


def test_a_connection_that_is_lost_while_nobody_sends_is_made_again(vhost_url: str) -> None:
    port = urlsplit(vhost_url).port or 0
    with Producer(vhost_url) as producer:
        producer.send(Probe())
        before = connections(port)
        cut(port)
        deadline = time.monotonic() + 10
        while not connections(port) - before:
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # which is the point here
def test_a_child_that_is_forked_while_threads_lead_sends_over_a_connection_of_its_own(vhost_url: str) -> None:
    with Producer(vhost_url) as producer:
        producer.send(Probe())
        ids_in(vhost_url)
        senders = Senders(producer, 3)
        children = []
        for _ in range(4):
            senders.until_confirmed(20)
            child = os.fork()
            if child == 0:
                try:
                    producer.send(Probe(name="child"))
                    os._exit(0)
                finally:
                    os._exit(1)
            children.append(child)
        for child in children:
            _, status = os.waitpid(child, 0)
            assert os.waitstatus_to_exitcode(status) == 0
        senders.until_confirmed(20)
        senders.end()
        assert senders.raised == []
        found = ids_in(vhost_url)
    assert set(senders.confirmed) <= set(found)
    assert len(set(found) - set(senders.confirmed)) == len(children)


def test_a_close_ends_while_others_send(vhost_url: str) -> None:
    producer = Producer(vhost_url, timeout=2)
    producer.send(Probe())
    ids_in(vhost_url)
    senders = Senders(producer, 4)
    senders.until_confirmed(50)
    started = time.monotonic()
    producer.close()
    assert time.monotonic() - started < 4
    senders.end()
    assert {type(error) for error in senders.raised} == {BrokerUnavailable}
    assert set(senders.confirmed) <= set(ids_in(vhost_url))


def test_a_stream_and_single_sends_share_the_connection(vhost_url: str) -> None:
    with Producer(vhost_url) as producer:
        producer.send(Probe())
        ids_in(vhost_url)
        senders = Senders(producer, 2)
        senders.until_confirmed(10)
        receipts = list(producer.send_many((Probe() for _ in range(5_000)), receipts=True))
        during = len(senders.confirmed)
        senders.end()
        assert senders.raised == []
        found = ids_in(vhost_url)
    assert during > 20, "single sends go on beside a stream"
    assert set(found) == {*senders.confirmed, *(receipt.job_id for receipt in receipts)}
