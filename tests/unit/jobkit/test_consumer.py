"""A consumer among messages that no actor takes, while dead letters cannot be published."""

import threading
from collections import deque
from types import SimpleNamespace
from unittest.mock import Mock

import pika
import pytest
from pika.exceptions import AMQPConnectionError

from jobkit.broker import consumer as module
from jobkit.broker.consumer import RabbitmqConsumer
from jobkit.broker.session import Settlement
from jobkit.errors import BrokerUnavailable

BAD = b"no JSON"


class Queue:
    """A consumer whose session has already received these bodies; ``events`` is what it then did, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *bodies: bytes) -> None:
        self.events: list[object] = []
        self.now = 1000.0
        self.host = Mock(stopping=threading.Event(), actors={"work"}, max_message_bytes=1024)
        self.host.publish_dead_letter.side_effect = lambda *_: self.events.append("bury")
        self.session = Mock(is_over=False)
        self.session.arrived = deque(
            (SimpleNamespace(delivery_tag=tag, redelivered=False), pika.BasicProperties(), body)
            for tag, body in enumerate(bodies, 1)
        )
        self.session.wait.side_effect = self._wait
        self.session.settle.side_effect = lambda tag, settlement: self.events.append((tag, settlement))
        self.consumer = RabbitmqConsumer(self.host, "work", prefetch=16, timeout=1000)
        self.consumer._session = self.session
        clock = SimpleNamespace(monotonic=lambda: self.now, time=lambda: self.now)
        monkeypatch.setattr(module, "time", clock)  # it has no sleep

    def _wait(self, timeout: float) -> None:
        self.events.append("exchange")
        self.now += min(timeout, 0.6)


def test_data_is_exchanged_between_two_burials_that_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Queue(monkeypatch, BAD, BAD)

    def refuse(*_: object) -> None:
        queue.events.append("bury")
        raise BrokerUnavailable("nobody there")

    queue.host.publish_dead_letter.side_effect = refuse
    assert [next(queue.consumer) for _ in range(3)] == [None] * 3
    assert queue.events == [
        *("bury", (1, Settlement.REQUEUE)),
        *("exchange", "exchange"),  # for a second, or the one that has come back would be looked at at once
        *("bury", (2, Settlement.REQUEUE)),
    ]


def test_data_is_exchanged_between_two_burials_that_take_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Queue(monkeypatch, BAD, BAD)
    next(queue.consumer)
    next(queue.consumer)
    assert queue.events == ["bury", (1, Settlement.ACK), "exchange", "bury", (2, Settlement.ACK)]
    queue.session.wait.assert_called_once_with(0.0)


def test_a_connection_that_is_lost_after_a_burial_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Queue(monkeypatch, BAD, BAD)
    next(queue.consumer)
    queue.session.wait.side_effect = AMQPConnectionError("gone")
    assert next(queue.consumer) is None
    queue.session.close.assert_called_once_with()
    assert queue.events.count("bury") == 1


def test_what_decoding_fails_at_unforeseen_is_a_dead_letter(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    queue = Queue(monkeypatch, BAD)
    monkeypatch.setattr(module, "decode", Mock(side_effect=ZeroDivisionError("nobody thought of this")))
    assert next(queue.consumer) is None
    body, _properties, failure = queue.host.publish_dead_letter.call_args.args
    assert (body, failure.reason) == (BAD, "undecodable")
    assert failure.message == "ZeroDivisionError: nobody thought of this"
    assert queue.events == ["bury", (1, Settlement.ACK)]
    assert "Traceback" in caplog.text
    assert "nobody thought of this" in caplog.text
