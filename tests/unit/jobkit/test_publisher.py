"""The publisher without a broker: it gives up in time and keeps nothing."""

import gc
import os
import socket
import threading
import time
import warnings
from unittest.mock import Mock

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


def publish(publisher: ConfirmedPublisher, timeout: float) -> Outgoing:
    sent = message()
    publisher.begin(sent)
    publisher.wait(sent, timeout, since=time.monotonic())
    return sent


def test_an_outage_does_not_fill_the_memory_with_what_has_failed(publisher: ConfirmedPublisher) -> None:
    for _ in range(20):
        assert isinstance(publish(publisher, 0.01).error, BrokerUnavailable)
    assert not publisher._waiting
    publisher.close()


def test_a_deadline_that_has_passed_ends_the_wait_at_once(publisher: ConfirmedPublisher) -> None:
    started = time.monotonic()
    assert isinstance(publish(publisher, -1).error, BrokerUnavailable)
    assert time.monotonic() - started < 1
    publisher.close()


def test_a_thread_that_could_not_be_started_is_started_by_the_next_send(
    publisher: ConfirmedPublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", Mock(side_effect=RuntimeError("can't start new thread")))
        with pytest.raises(BrokerUnavailable, match="thread cannot be started: can't start new thread"):
            publisher.begin(message())
    assert not publisher._waiting
    refused = publish(publisher, 0.5).error
    assert isinstance(refused, BrokerUnavailable)
    assert "cannot be reached" in str(refused)
    publisher.close()


def test_closed_while_it_connects_it_leaves_no_socket_to_the_garbage_collector() -> None:
    before = set(threading.enumerate())
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"amqp://127.0.0.1:{silent.getsockname()[1]}/"
        publisher = ConfirmedPublisher(ConnectionSettings([url], connect_timeout=0.3))
        assert isinstance(publish(publisher, 0.1).error, BrokerUnavailable)
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
