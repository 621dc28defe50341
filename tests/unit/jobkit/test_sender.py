"""How a message leaves, when the broker does not want to be asked."""

from datetime import timedelta
from unittest.mock import MagicMock

import pytest
from dramatiq import Message
from pika.exceptions import AMQPConnectionError

from jobkit.broker.connection import ConnectionSettings
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
