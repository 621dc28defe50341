"""Hostile messages on their way."""

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
            batch = messages[start : start + BATCH]
            publisher.publish([Outgoing("", m.queue, m.body, m.properties) for m in batch], LIMIT)
    finally:
        publisher.close()
