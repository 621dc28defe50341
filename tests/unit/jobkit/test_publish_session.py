"""One connection's life, without a connection: what a refusal does to its channel."""

from collections import deque
from collections.abc import Iterator
from types import SimpleNamespace
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
def session(waiting: deque[Outgoing]) -> Iterator[PublishSession]:
    built = PublishSession(ConnectionSettings(["amqp://127.0.0.1/"]), waiting, Mock())
    yield built
    built.dispose()


def message() -> Outgoing:
    return Outgoing("", "probe", b"{}", pika.BasicProperties(message_id="1"))


def answer(method: type[pika.spec.Basic.Ack | pika.spec.Basic.Nack], tag: int) -> SimpleNamespace:
    return SimpleNamespace(method=method(delivery_tag=tag))


def test_after_a_refusal_the_channel_is_left_as_soon_as_nobody_waits_on_it(
    session: PublishSession, waiting: deque[Outgoing]
) -> None:
    channel, refused, slow, late = Mock(is_open=True), message(), message(), message()
    waiting.extend([refused, slow])
    session._start_publishing(channel)
    channel.basic_publish.reset_mock()
    session._on_confirm(answer(pika.spec.Basic.Nack, 1))
    assert isinstance(refused.error, SendRefused)
    channel.close.assert_not_called()
    waiting.append(late)
    session._on_confirm(answer(pika.spec.Basic.Ack, 2))
    assert slow.confirmed
    channel.close.assert_called_once_with()
    channel.basic_publish.assert_not_called()


def test_a_new_channel_is_trusted_again(session: PublishSession, waiting: deque[Outgoing]) -> None:
    old, new = Mock(is_open=True), Mock(is_open=True)
    waiting.append(message())
    session._start_publishing(old)
    session._on_confirm(answer(pika.spec.Basic.Nack, 1))
    session._on_channel_closed(old, Exception("closed by us"))
    waiting.append(message())
    session._on_channel_open(new)
    session._start_publishing(new)
    new.basic_publish.assert_called_once()


def test_what_was_in_flight_when_a_channel_broke_is_published_one_at_a_time(
    session: PublishSession, waiting: deque[Outgoing]
) -> None:
    old, new = Mock(is_open=True), Mock(is_open=True)
    waiting.extend([message(), message()])
    session._start_publishing(old)
    assert old.basic_publish.call_count == 2
    session._on_channel_closed(old, Exception("one of them was bad"))
    session._on_channel_open(new)
    session._start_publishing(new)
    assert new.basic_publish.call_count == 1
    session._on_confirm(answer(pika.spec.Basic.Ack, 1))
    assert new.basic_publish.call_count == 2


def test_what_nobody_waits_for_any_more_is_not_published(session: PublishSession, waiting: deque[Outgoing]) -> None:
    channel, given_up = Mock(is_open=True), message()
    given_up.abandoned = True
    waiting.extend([given_up, message()])
    session._start_publishing(channel)
    assert channel.basic_publish.call_count == 1


def test_what_is_never_confirmed_does_not_fill_the_window_for_good(
    session: PublishSession, waiting: deque[Outgoing]
) -> None:
    old, new, stuck, good = Mock(is_open=True), Mock(is_open=True), message(), message()
    waiting.extend([stuck, good])
    session._start_publishing(old)
    stuck.abandoned = True
    session._doubt()
    old.close.assert_not_called()
    session._on_confirm(answer(pika.spec.Basic.Ack, 2))
    assert good.confirmed
    old.close.assert_called_once_with()
    session._on_channel_closed(old, Exception("closed by us"))
    waiting.append(message())
    session._on_channel_open(new)
    session._start_publishing(new)
    new.basic_publish.assert_called_once()


def test_a_send_that_timed_out_before_it_was_published_costs_no_channel(session: PublishSession) -> None:
    channel = Mock(is_open=True)
    session._start_publishing(channel)
    session._doubt()
    channel.close.assert_not_called()
