"""How a message leaves, when the broker does not want to be asked."""

import math
import time
from datetime import timedelta
from unittest.mock import MagicMock

import pytest
from dramatiq import Message
from pika.exceptions import AMQPConnectionError

from jobkit.broker.connection import ConnectionSettings
from jobkit.broker.publisher import ConfirmedPublisher
from jobkit.broker.sender import Sender
from jobkit.errors import BrokerUnavailable


@pytest.mark.parametrize(
    "lost",
    [
        AMQPConnectionError("the connection is gone"),
        AssertionError("pika's own, of a connection that died meanwhile"),
        ConnectionResetError(104, "Connection reset by peer"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("step", ["open", "channel", "close"])
def test_a_broker_that_dies_at_the_first_delayed_send_is_unavailable(
    lost: Exception, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = MagicMock()
    connection.__enter__.return_value = connection
    opened = MagicMock(return_value=connection)
    part = {"open": opened, "channel": connection.channel, "close": connection.__exit__}[step]
    part.side_effect = lost
    monkeypatch.setattr(ConnectionSettings, "open", opened)
    sender = Sender(ConnectionSettings(["amqp://guest:s3cret@127.0.0.1/"]), app_id="test")
    message: Message[object] = Message("work", "work", (), {}, {})
    with pytest.raises(BrokerUnavailable, match=r"cannot make work: .*cannot be reached"):
        sender.send([message], delay=timedelta(seconds=1))


def test_a_later_delayed_send_does_not_connect_once_more_in_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = MagicMock()
    monkeypatch.setattr(ConnectionSettings, "open", opened)
    sender = Sender(ConnectionSettings(["amqp://guest:s3cret@127.0.0.1/"]), app_id="test")
    first = sender._route("work", timedelta(seconds=1))
    sender._publisher.lost_at = math.inf
    assert sender._route("work", timedelta(seconds=1)) == first
    assert opened.call_count == 1


@pytest.mark.parametrize("fails", [False, True], ids=["and may", "and cannot"])
def test_after_a_lost_connection_the_next_delayed_send_declares_again(
    monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    opened = MagicMock()
    monkeypatch.setattr(ConnectionSettings, "open", opened)
    monkeypatch.setattr(ConfirmedPublisher, "connected", True)
    sender = Sender(ConnectionSettings(["amqp://guest:s3cret@127.0.0.1/"]), app_id="test")
    first = sender._route("work", timedelta(seconds=1))
    assert sender._route("work", timedelta(seconds=1)) == first
    assert opened.call_count == 1
    sender._publisher.lost_at = time.monotonic()
    opened.side_effect = AMQPConnectionError("gone once more") if fails else None
    assert sender._route("work", timedelta(seconds=1)) == first
    assert opened.call_count == 2
