"""One connection's life, without a connection: what a refusal does to its channel."""

from collections import deque
from collections.abc import Iterator
from unittest.mock import Mock

import pika
import pytest

from jobkit.broker.connection import ConnectionSettings
from jobkit.broker.outgoing import Outgoing
from jobkit.broker.publish_session import PublishSession
from jobkit.errors import SendRefused


@pytest.fixture
def waiting() -> deque[Outgoing]:
    return deque()


@pytest.fixture
def connection() -> Mock:
    return Mock()


@pytest.fixture
def session(waiting: deque[Outgoing], connection: Mock) -> Iterator[PublishSession]:
    built = PublishSession(ConnectionSettings(["amqp://127.0.0.1/"]), waiting, Mock())
    built._connection = connection
    yield built
    built._loop.close()


def publish_over(session: PublishSession, channel: Mock) -> None:
    session._start_publishing(channel)
    session._pump()


def answer(session: PublishSession, tag: int, *, taken: bool = True) -> None:
    session._on_confirm(tag, False, taken)
    session._pump()


def message() -> Outgoing:
    return Outgoing("", "probe", b"{}", pika.BasicProperties(message_id="1"))


def test_after_a_refusal_the_channel_is_left_as_soon_as_nobody_waits_on_it(
    session: PublishSession, connection: Mock, waiting: deque[Outgoing]
) -> None:
    channel, refused, slow, late = Mock(is_open=True), message(), message(), message()
    waiting.extend([refused, slow])
    publish_over(session, channel)
    connection.publish.reset_mock()
    answer(session, 1, taken=False)
    assert isinstance(refused.error, SendRefused)
    channel.close.assert_not_called()
    waiting.append(late)
    answer(session, 2)
    assert slow.confirmed
    channel.close.assert_called_once_with()
    connection.publish.assert_not_called()


def test_a_new_channel_is_trusted_again(session: PublishSession, connection: Mock, waiting: deque[Outgoing]) -> None:
    old, new = Mock(is_open=True), Mock(is_open=True)
    waiting.append(message())
    publish_over(session, old)
    answer(session, 1, taken=False)
    session._on_channel_closed(old, Exception("closed by us"))
    waiting.append(message())
    session._on_channel_open(new)
    connection.publish.reset_mock()
    publish_over(session, new)
    connection.publish.assert_called_once()


def test_what_was_in_flight_when_a_channel_broke_is_published_one_at_a_time(
    session: PublishSession, connection: Mock, waiting: deque[Outgoing]
) -> None:
    old, new = Mock(is_open=True), Mock(is_open=True)
    waiting.extend([message(), message()])
    publish_over(session, old)
    assert connection.publish.call_count == 2
    session._on_channel_closed(old, Exception("one of them was bad"))
    session._on_channel_open(new)
    connection.publish.reset_mock()
    publish_over(session, new)
    assert connection.publish.call_count == 1
    answer(session, 1)
    assert connection.publish.call_count == 2


def test_what_nobody_waits_for_any_more_is_not_published(
    session: PublishSession, connection: Mock, waiting: deque[Outgoing]
) -> None:
    channel, given_up = Mock(is_open=True), message()
    given_up.abandoned = True
    waiting.extend([given_up, message()])
    publish_over(session, channel)
    assert connection.publish.call_count == 1


def test_what_is_never_confirmed_does_not_fill_the_window_for_good(
    session: PublishSession, connection: Mock, waiting: deque[Outgoing]
) -> None:
    old, new, stuck, good = Mock(is_open=True), Mock(is_open=True), message(), message()
    waiting.extend([stuck, good])
    publish_over(session, old)
    stuck.abandoned = True
    session._doubt()
    session._pump()
    old.close.assert_not_called()
    answer(session, 2)
    assert good.confirmed
    old.close.assert_called_once_with()
    session._on_channel_closed(old, Exception("closed by us"))
    waiting.append(message())
    session._on_channel_open(new)
    connection.publish.reset_mock()
    publish_over(session, new)
    connection.publish.assert_called_once()


def test_a_send_that_timed_out_before_it_was_published_costs_no_channel(session: PublishSession) -> None:
    channel = Mock(is_open=True)
    publish_over(session, channel)
    session._doubt()
    session._pump()
    channel.close.assert_not_called()
