"""A worker gives up on a broker that says no, and waits for whatever only hangs up: that may be one that restarts."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from unittest.mock import Mock

import pika
import pytest
from pika import amqp_object, frame, spec

from jobkit.broker.connection import CONNECTION_LOST, ConnectionSettings, is_misconfigured
from jobkit.broker.rabbitmq import JobBroker

Peer = Callable[[socket.socket], None]

LIMIT = 5.0  # seconds


def say(peer: socket.socket, method: amqp_object.Method) -> None:
    peer.sendall(frame.Method(0, method).marshal())


def closes_at_once(_peer: socket.socket) -> None:
    pass


def closes_after_the_header(peer: socket.socket) -> None:
    peer.recv(8)


def closes_within_a_frame(peer: socket.socket) -> None:
    peer.recv(8)
    peer.sendall(b"\x01\x00\x00\x00")


def closes_after_start(peer: socket.socket) -> None:
    peer.recv(8)
    say(peer, spec.Connection.Start(server_properties={}, mechanisms="PLAIN", locales="en_US"))
    peer.recv(4096)


def closes_after_tune(peer: socket.socket) -> None:
    closes_after_start(peer)
    say(peer, spec.Connection.Tune(2047, 131_072, 30))
    peer.recv(4096)


def says(after: Peer, code: int, text: str) -> Peer:
    def peer_that_says_why(peer: socket.socket) -> None:
        after(peer)
        say(peer, spec.Connection.Close(code, text, 0, 0))
        peer.recv(4096)

    return peer_that_says_why


def answers(words: bytes) -> Peer:
    def other_protocol(peer: socket.socket) -> None:
        peer.sendall(words)
        peer.recv(8)

    return other_protocol


@contextmanager
def listening(behave: Peer) -> Iterator[ConnectionSettings]:
    """The settings for a peer that takes one connection, behaves like that and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(LIMIT)

        def serve() -> None:
            peer, _address = server.accept()
            with peer:
                peer.settimeout(LIMIT)
                behave(peer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield ConnectionSettings(
            [f"amqp://guest:s3cret@127.0.0.1:{server.getsockname()[1]}/%2F"], connect_timeout=LIMIT
        )
        thread.join(LIMIT)
        assert not thread.is_alive()


def meet(behave: Peer) -> tuple[bool, str]:
    """Whether a worker gives up that meets this peer at its first connect, and what it says."""
    with listening(behave) as settings:
        broker = JobBroker(settings, Mock())
        broker.give_up = Mock()  # type: ignore[method-assign]  # it would end this process
        with pytest.raises(CONNECTION_LOST) as outage:
            settings.open()
        broker.report_outage(outage.value, first=True)
        assert broker.give_up.called == is_misconfigured(outage.value)
        return broker.give_up.called, settings.describe(outage.value)


FORCED = "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'"
LOGIN = "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN."
VHOST_LIMIT = "NOT_ALLOWED - access to vhost 'a' refused for user 'guest': connection limit (9) is reached"
USER_LIMIT = "NOT_ALLOWED - connection refused for user 'guest': user connection limit (9) is reached"
VHOST_DOWN = "INTERNAL_ERROR - access to vhost 'a' refused for user 'guest': vhost 'a' is down"


def test_a_login_that_is_refused_after_another_consumer_has_connected_ends_no_worker() -> None:
    with listening(says(closes_after_start, 403, LOGIN)) as settings:
        broker = JobBroker(settings, Mock())
        broker.give_up = Mock()  # type: ignore[method-assign]  # it would end this process
        with pytest.raises(CONNECTION_LOST) as outage:
            settings.open()
        broker.report_connected("probe.high")
        broker.report_outage(outage.value, first=True, queue="probe")
        assert not broker.give_up.called
        assert "refused the user or password" in broker.refusals.problems(timedelta(seconds=-1))[0]


@pytest.mark.parametrize(
    ("behave", "hint"),
    [
        pytest.param(closes_at_once, "", id="closes at once"),
        pytest.param(closes_after_the_header, "check host, port and TLS", id="closes after the header"),
        pytest.param(closes_within_a_frame, "check host, port and TLS", id="closes within a frame"),
        pytest.param(closes_after_start, "check user and password", id="closes after Start"),
        pytest.param(closes_after_tune, "check the vhost", id="closes after Tune"),
        pytest.param(says(closes_after_start, 320, FORCED), FORCED, id="320 after Start"),
        pytest.param(says(closes_after_tune, 320, FORCED), FORCED, id="320 after Tune"),
        pytest.param(says(closes_after_tune, 541, VHOST_DOWN), VHOST_DOWN, id="the vhost is being started"),
        pytest.param(says(closes_after_tune, 530, VHOST_LIMIT), VHOST_LIMIT, id="the vhost's connections"),
        pytest.param(says(closes_after_tune, 530, USER_LIMIT), USER_LIMIT, id="the user's connections"),
    ],
)
def test_a_worker_waits_for_a_peer_that_hangs_up(behave: Peer, hint: str) -> None:
    gives_up, line = meet(behave)
    assert not gives_up
    assert "(JOBKIT_BROKER_URL) cannot be reached: " in line
    assert hint in line
    assert "s3cret" not in line


@pytest.mark.parametrize(
    ("behave", "hint"),
    [
        pytest.param(says(closes_after_start, 403, LOGIN), "refused the user or password", id="login"),
        pytest.param(says(closes_after_tune, 530, "NOT_ALLOWED - vhost a not found"), "no such vhost", id="vhost"),
        pytest.param(says(closes_after_tune, 403, "ACCESS_REFUSED - vhost 'a'"), "no such vhost", id="vhost, by 403"),
        pytest.param(answers(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "is no AMQP broker", id="HTTP"),
        pytest.param(answers(b"AMQP\x00\x01\x00\x00"), "is no AMQP broker", id="AMQP 1.0"),
        pytest.param(answers(b"\x15\x03\x01\x00\x02\x02\x46"), "is no AMQP broker", id="a TLS alert"),
    ],
)
def test_a_worker_gives_up_on_a_peer_that_says_no(behave: Peer, hint: str) -> None:
    gives_up, line = meet(behave)
    assert gives_up
    assert hint in line
    assert "s3cret" not in line


def test_a_broker_without_a_login_that_we_know_is_given_up_on() -> None:
    def only_external(peer: socket.socket) -> None:
        peer.recv(8)
        say(peer, spec.Connection.Start(server_properties={}, mechanisms="EXTERNAL", locales="en_US"))
        peer.recv(4096)

    gives_up, line = meet(only_external)
    assert gives_up
    assert "refused the user or password" in line


def test_the_words_are_read_as_pika_writes_them() -> None:
    for text in ("it's", 'a "quote"', """both ' and " """):
        guess = pika.exceptions.ProbableAuthenticationError(repr(pika.exceptions.ConnectionClosedByBroker(403, text)))
        assert is_misconfigured(guess)
