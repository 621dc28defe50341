"""What was published and is not confirmed, without a connection: what a refusal does to its channel."""

from collections import deque
from unittest.mock import Mock

import pika
import pika.exceptions
import pytest

from jobkit.broker.confirmed_channel import ConfirmedChannel
from jobkit.broker.connection import ConnectionSettings
from jobkit.broker.detours import Detours
from jobkit.broker.outgoing import Outgoing
from jobkit.errors import AccessRefused, SendError, SendRefused, Unroutable


@pytest.fixture
def waiting() -> deque[Outgoing]:
    return deque()


@pytest.fixture
def connection() -> Mock:
    return Mock()


@pytest.fixture
def confirmed(waiting: deque[Outgoing], connection: Mock) -> ConfirmedChannel:
    built = ConfirmedChannel(ConnectionSettings(["amqp://127.0.0.1/"]), waiting, Detours(), Mock())
    built._connection = connection
    return built


def publish_over(confirmed: ConfirmedChannel, channel: Mock) -> None:
    confirmed._on_open(channel)
    confirmed.publish()


def answer(confirmed: ConfirmedChannel, tag: int, *, taken: bool = True) -> None:
    confirmed.on_confirm(tag, False, taken)
    confirmed.publish()


def message() -> Outgoing:
    return Outgoing("", "probe", b"{}", pika.BasicProperties(message_id="1"))


def test_after_a_refusal_the_channel_is_left_as_soon_as_nobody_waits_on_it(
    confirmed: ConfirmedChannel, connection: Mock, waiting: deque[Outgoing]
) -> None:
    channel, refused, slow, late = Mock(is_open=True), message(), message(), message()
    waiting.extend([refused, slow])
    publish_over(confirmed, channel)
    connection.publish.reset_mock()
    answer(confirmed, 1, taken=False)
    assert isinstance(refused.error, SendRefused)
    channel.close.assert_not_called()
    waiting.append(late)
    answer(confirmed, 2)
    assert slow.confirmed
    channel.close.assert_called_once_with()
    connection.publish.assert_not_called()


def test_a_new_channel_is_trusted_again(
    confirmed: ConfirmedChannel, connection: Mock, waiting: deque[Outgoing]
) -> None:
    old, new = Mock(is_open=True), Mock(is_open=True)
    waiting.append(message())
    publish_over(confirmed, old)
    answer(confirmed, 1, taken=False)
    confirmed._on_channel_closed(old, Exception("closed by us"))
    waiting.append(message())
    confirmed._on_channel_open(new)
    connection.publish.reset_mock()
    publish_over(confirmed, new)
    connection.publish.assert_called_once()


def test_what_was_in_flight_when_a_channel_broke_is_published_one_at_a_time(
    confirmed: ConfirmedChannel, connection: Mock, waiting: deque[Outgoing]
) -> None:
    old, new = Mock(is_open=True), Mock(is_open=True)
    waiting.extend([message(), message()])
    publish_over(confirmed, old)
    assert connection.publish.call_count == 2
    confirmed._on_channel_closed(old, Exception("one of them was bad"))
    confirmed._on_channel_open(new)
    connection.publish.reset_mock()
    publish_over(confirmed, new)
    assert connection.publish.call_count == 1
    answer(confirmed, 1)
    assert connection.publish.call_count == 2


def test_what_nobody_waits_for_any_more_is_not_published(
    confirmed: ConfirmedChannel, connection: Mock, waiting: deque[Outgoing]
) -> None:
    channel, given_up = Mock(is_open=True), message()
    given_up.abandoned = True
    waiting.extend([given_up, message()])
    publish_over(confirmed, channel)
    assert connection.publish.call_count == 1


def test_what_is_never_confirmed_does_not_fill_the_window_for_good(
    confirmed: ConfirmedChannel, connection: Mock, waiting: deque[Outgoing]
) -> None:
    old, new, stuck, good = Mock(is_open=True), Mock(is_open=True), message(), message()
    waiting.extend([stuck, good])
    publish_over(confirmed, old)
    stuck.abandoned = True
    confirmed.doubt()
    confirmed.publish()
    old.close.assert_not_called()
    answer(confirmed, 2)
    assert good.confirmed
    old.close.assert_called_once_with()
    confirmed._on_channel_closed(old, Exception("closed by us"))
    waiting.append(message())
    confirmed._on_channel_open(new)
    connection.publish.reset_mock()
    publish_over(confirmed, new)
    connection.publish.assert_called_once()


def job() -> Outgoing:
    return Outgoing("email.jobs", "email", b"{}", pika.BasicProperties(message_id="1"))


def closed(code: int) -> pika.exceptions.ChannelClosedByBroker:
    return pika.exceptions.ChannelClosedByBroker(code, "no exchange 'email.jobs' in vhost '/'")


def end_asking(connection: Mock, reason: Exception) -> None:
    """Let the channel that asks for an exchange be opened, and closed for this reason."""
    connection.channel.assert_called_once()
    asking = Mock()
    connection.channel.call_args.kwargs["on_open_callback"](asking)
    assert asking.basic_publish.call_args.args[0] == "email.jobs"
    asking.close.assert_called_once_with()
    asking.add_on_close_callback.call_args.args[0](asking, reason)


def test_the_first_job_for_an_exchange_waits_until_that_is_known_to_exist(
    confirmed: ConfirmedChannel, connection: Mock, waiting: deque[Outgoing]
) -> None:
    waiting.extend([message(), job(), message()])
    publish_over(confirmed, Mock(is_open=True))
    assert connection.publish.call_count == 1, "an order among senders is kept"
    confirmed.publish()
    end_asking(connection, pika.exceptions.ChannelClosedByClient(200, "Normal shutdown"))
    assert [call.args[1] for call in connection.publish.call_args_list] == ["", "email.jobs", ""]
    waiting.append(job())
    confirmed.publish()
    assert connection.publish.call_count == 4
    connection.channel.assert_called_once()


@pytest.mark.parametrize(("code", "error"), [(404, Unroutable), (403, AccessRefused)])
def test_a_job_for_an_exchange_that_does_not_take_it_goes_to_the_default_exchange(
    code: int, error: type[SendError], confirmed: ConfirmedChannel, connection: Mock, waiting: deque[Outgoing]
) -> None:
    channel = Mock(is_open=True)
    first = job()
    waiting.extend([first, job()])
    publish_over(confirmed, channel)
    connection.publish.assert_not_called()
    end_asking(connection, closed(code))
    assert [call.args[1] for call in connection.publish.call_args_list] == ["", ""]
    assert type(first.detour) is error, "which is raised if the default exchange does not take it either"


def test_a_connection_that_is_lost_says_nothing_of_an_exchange(
    confirmed: ConfirmedChannel, connection: Mock, waiting: deque[Outgoing]
) -> None:
    waiting.append(job())
    publish_over(confirmed, Mock(is_open=True))
    end_asking(connection, pika.exceptions.StreamLostError())
    connection.publish.assert_not_called()
    assert not confirmed._detours.is_there("email.jobs")
    assert len(waiting) == 1


def test_a_job_is_published_unasked_where_a_connection_may_have_one_channel_only(
    confirmed: ConfirmedChannel, connection: Mock, waiting: deque[Outgoing]
) -> None:
    connection.channel.side_effect = pika.exceptions.NoFreeChannels()
    waiting.append(job())
    publish_over(confirmed, Mock(is_open=True))
    assert connection.publish.call_args.args[1] == "email.jobs"


def test_an_exchange_that_was_removed_is_asked_for_again_a_minute_later(
    confirmed: ConfirmedChannel, connection: Mock, waiting: deque[Outgoing]
) -> None:
    confirmed._detours.found("email.jobs")
    channel, new = Mock(is_open=True), Mock(is_open=True)
    waiting.append(job())
    publish_over(confirmed, channel)
    confirmed._on_channel_closed(channel, closed(404))
    confirmed._on_channel_open(new)
    publish_over(confirmed, new)
    assert [call.args[1] for call in connection.publish.call_args_list] == ["email.jobs", ""]
    confirmed._detours._noted.clear()
    connection.channel.reset_mock()
    waiting.append(job())
    answer(confirmed, 1)
    end_asking(connection, closed(404))


def test_a_send_that_timed_out_before_it_was_published_costs_no_channel(confirmed: ConfirmedChannel) -> None:
    channel = Mock(is_open=True)
    publish_over(confirmed, channel)
    confirmed.doubt()
    confirmed.publish()
    channel.close.assert_not_called()
