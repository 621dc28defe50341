"""Hostile messages on their way."""

import time
from collections.abc import Sequence

from hostile import Hostile

from jobkit.broker.connection import ConnectionSettings
from jobkit.broker.outgoing import Outgoing
from jobkit.broker.publisher import ConfirmedPublisher

#: Messages given to the publisher at a time, and seconds for each such batch.
BATCH, LIMIT = 500, 60.0


def publish(url: str, messages: Sequence[Hostile]) -> None:
    """Return when the broker has confirmed all of them.

    Without confirms a quorum queue loses what it has not yet written when the channel closes.
    """
    publisher = ConfirmedPublisher(ConnectionSettings([url], name="fuzz"))
    try:
        for start in range(0, len(messages), BATCH):
            batch = [Outgoing("", m.queue, m.body, m.properties) for m in messages[start : start + BATCH]]
            for message in batch:
                publisher.begin(message)
            for message in batch:
                publisher.wait(message, LIMIT, since=time.monotonic())
                if message.error is not None:
                    raise message.error
    finally:
        publisher.close()
