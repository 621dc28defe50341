"""The publisher without a broker: it gives up in time and keeps nothing."""

import gc
import os
import socket
import threading
import time
import warnings

import pika
import pytest

from jobkit.broker.connection import ConnectionSettings
from jobkit.broker.outgoing import Outgoing
from jobkit.broker.publisher import ConfirmedPublisher
from jobkit.errors import BrokerUnavailable
from local_stack.ports import free_port


@pytest.fixture
def publisher() -> ConfirmedPublisher:
    return ConfirmedPublisher(ConnectionSettings([f"amqp://guest:guest@127.0.0.1:{free_port()}/"]))


def message() -> Outgoing:
    return Outgoing("", "probe", b"{}", pika.BasicProperties(message_id="1"))


def test_an_outage_does_not_fill_the_memory_with_what_has_failed(publisher: ConfirmedPublisher) -> None:
    for _ in range(20):
        with pytest.raises(BrokerUnavailable):
            publisher.publish([message(), message()], timeout=0.01)
    assert not publisher._waiting
    publisher.close()


def test_a_deadline_that_has_passed_raises_at_once(publisher: ConfirmedPublisher) -> None:
    started = time.monotonic()
    with pytest.raises(BrokerUnavailable):
        publisher.publish([message()], timeout=-1)
    assert time.monotonic() - started < 1
    publisher.close()


def test_closed_while_it_connects_it_leaves_no_socket_to_the_garbage_collector() -> None:
    before = set(threading.enumerate())
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"amqp://127.0.0.1:{silent.getsockname()[1]}/"
        publisher = ConfirmedPublisher(ConnectionSettings([url], connect_timeout=0.3))
        with pytest.raises(BrokerUnavailable):
            publisher.publish([message()], timeout=0.1)
        publisher.close()
        for thread in set(threading.enumerate()) - before:
            thread.join(10)  # not before the attempt has come to its time-out
            assert not thread.is_alive()
        with warnings.catch_warnings(record=True) as leaks:
            warnings.simplefilter("always")
            gc.collect()
    assert not leaks


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # which is the point here
def test_a_fork_while_another_thread_publishes_leaves_the_child_able_to(publisher: ConfirmedPublisher) -> None:
    with publisher._lock:  # as another thread of the parent would hold it
        child = os.fork()
        if child == 0:
            free = publisher._lock.acquire(timeout=1)
            os._exit(0 if free else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    publisher.close()
