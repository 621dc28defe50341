"""How the broker and the store are named and reached: no password is shown, no node is forgotten."""

import socket
from collections.abc import Sequence
from typing import Any

import pika
import pytest
from pika.exceptions import AMQPConnectionError
from redis.exceptions import ConnectionError as RedisConnectionError

from jobkit.broker.connection import ConnectionSettings
from jobkit.store.redis_errors import translate

UNKNOWN = "amqp://jobs:s3cret@gone.invalid:5672/%2F"
KNOWN = "amqp://jobs:s3cret@127.0.0.1:5672/%2F"


@pytest.fixture(autouse=True)
def _no_name_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(host: str, port: int, *_: object, **__: object) -> list[tuple[Any, ...]]:
        if host.endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:s3cret@redis:6379/0", "Redis at redis:6379/0 "),
        ("redis://redis:6379/0?username=jobs&password=s3cret", "Redis at redis:6379/0 "),
        ("rediss://jobs:s3cret@redis:6380/1?ssl_password=s3cret", "Redis at redis:6380/1 "),
        ("unix:///run/redis.sock?password=s3cret", "Redis at /run/redis.sock "),
    ],
)
def test_an_error_of_the_store_names_the_place_and_no_password(url: str, shown: str) -> None:
    line = str(translate(RedisConnectionError("refused"), url))
    assert line.startswith(shown)
    assert "s3cret" not in line


def test_no_password_is_in_what_connection_settings_print() -> None:
    connection = ConnectionSettings([KNOWN])
    assert "s3cret" not in f"{connection!r} {connection} {connection.where}"


def test_a_host_name_that_does_not_resolve_is_an_outage_like_any_other() -> None:
    connection = ConnectionSettings([UNKNOWN])
    with pytest.raises(AMQPConnectionError) as outage:
        connection.open()
    line = connection.describe(outage.value)
    assert line.startswith("RabbitMQ at gone.invalid:5672/ (JOBKIT_BROKER_URL) cannot be reached: its host name does")
    assert "s3cret" not in line


def test_a_node_whose_name_is_unknown_does_not_keep_the_others_from_being_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[list[str]] = []

    def connect(nodes: Sequence[pika.URLParameters], **_: object) -> str:
        asked.append([node.host for node in nodes])
        if "gone.invalid" in asked[-1]:  # as pika does
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return "connected"

    monkeypatch.setattr(pika, "BlockingConnection", connect)
    opened: object = ConnectionSettings([UNKNOWN, KNOWN]).open()
    assert (opened, asked[-1]) == ("connected", ["127.0.0.1"])


def test_a_peer_that_hangs_up_at_once_is_an_outage_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(_nodes: Sequence[pika.URLParameters], **_more: object) -> str:
        raise ValueError("Expected connected socket, but getpeername() failed")  # as pika does

    monkeypatch.setattr(pika, "BlockingConnection", connect)
    with pytest.raises(AMQPConnectionError, match="closed at once"):
        ConnectionSettings([KNOWN]).open()


def test_the_time_to_connect_covers_the_whole_of_an_attempt() -> None:
    connection = ConnectionSettings([KNOWN, f"{KNOWN}?stack_timeout=7"], connect_timeout=3)
    assert [node.stack_timeout for node in connection.parameters()] == [3, 7]
    assert connection.longest_attempt == 10
