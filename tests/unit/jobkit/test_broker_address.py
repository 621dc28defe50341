"""A broker's address that means another place than it seems to is refused at once, and never shown."""

from pathlib import Path
from urllib.parse import quote

import pytest

from jobkit.addresses.broker import OPTIONS, broker_urls
from jobkit.producer import Producer

GOOD = "amqp://jobs:s3cret@rabbit:5672/shop"


@pytest.mark.parametrize(
    "address",
    [
        "amqp://rabbit",
        "amqp://rabbit/",
        "amqp://127.0.0.1:5672/%2F",
        "amqps://jobs:p%23%2F%3Fss@rabbit.example.com:5671/shop",
        "amqp://jobs:s3cret@[::1]:5672/shop",
        "amqp://jobs:pässwörd@rabbit/shop%2Fjobs",
        "AMQP://jobs:s3cret@rabbit-0.rabbit_headless.default.svc/shop",
        f"{GOOD}?heartbeat=20&socket_timeout=2.5&connection_attempts=1",
    ],
)
def test_an_address_of_one_place_is_taken(address: str) -> None:
    assert broker_urls(f"  {address}\n") == (address,)


def test_several_nodes_are_separated_by_commas_with_white_space_around_them() -> None:
    assert broker_urls(f"{GOOD} , amqp://other/shop") == (GOOD, "amqp://other/shop")


BAD = {
    "": "is empty",
    " ": "is empty",
    f"{GOOD},": "address 2 of 2: .* is empty",
    "rabbit:5672": "must start with amqp://",
    "localhost": "must start with amqp://",
    "redis://:s3cret@127.0.0.1:1/0": "must start with amqp://",
    f'"{GOOD}"': "without quotes",
    f"'{GOOD}'": "without quotes",
    "${BROKER_URL}": "must start with amqp://",
    "amqp:rabbit": "must start with amqp://",
    "amqp:/rabbit": "must start with amqp://",
    "amqp://jobs:s3#cret@127.0.0.1:1/": "raw '#'",
    "amqp://jobs:s3cret@127.0.0.1/shop#top": "raw '#'",
    "amqp://jobs:s3/cret@127.0.0.1:1/": "no usable port",
    "amqp://jobs:17/s3cret@127.0.0.1:1/": "more than one part",
    "amqp://jobs:17/s3cret@rabbit": "more than one part",
    "amqp://jobs:s3?cret@127.0.0.1:1/": "no usable port",
    "amqp://jobs:17?s3cret@rabbit/": "options that cannot be read|unknown option",
    "amqp://jobs:s3%cret@127.0.0.1:1/": "raw|encodes nothing",
    "amqp://jobs:s3,cret@127.0.0.1:1/": "address 1 of 2: .* no usable port",
    "amqp://jobs:s3 cret@127.0.0.1/": "character ' '",
    "amqp://jobs:${SECRET}@rabbit/": "character '{'",
    "amqp://jobs:s3cret@$HOST/": "no usable host",
    "amqp://jobs:s3cret@/shop": "no usable host",
    "amqp://": "no usable host",
    "amqp://jobs:s3cret@rabbit:0/": "port 0",
    "amqp://jobs:s3cret@rabbit:99999/": "no usable port",
    "amqp://jobs@rabbit/": "user without a password",
    "amqp://jobs:s3cret@rabbit/shop/jobs": "more than one part",
    "amqp://jobs:s3cret@rabbit//": "more than one part",
    "amqp://jobs:s3cret@rabbit//shop": "more than one part",
    f"{GOOD}?heartbeats=3": "unknown option 'heartbeats'",
    f"{GOOD}?client_properties=%7B%7D": "unknown option 'client_properties'",
    f"{GOOD}?heartbeat=soon": "heartbeat: .*'soon'",
    f"{GOOD}?heartbeat=": "heartbeat: it is empty",
    f"{GOOD}?ssl_options=" + quote("{'server_hostname': 'rabbit'}"): "ssl_options: cafile, capath and cadata",
    f"{GOOD}?heartbeat=3&heartbeat=4": "'heartbeat' twice",
    "amqps://rabbit/?ssl_options=" + quote("{'ca_certs': '/nowhere/ca.pem', 'password': 's3cret'}"): "No such file",
}


@pytest.mark.parametrize(("address", "reason"), BAD.items())
def test_another_address_is_refused_in_one_line_that_shows_no_password(address: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as refusal:
        Producer(address)
    line = str(refusal.value)
    assert "\n" not in line
    assert "cret" not in line.replace("secret", "")


def test_the_options_are_those_of_the_client_library() -> None:
    import pika

    known = {name.removeprefix("_set_url_") for name in dir(pika.URLParameters) if name.startswith("_set_url_")}
    assert known - {"client_properties"} == OPTIONS
    for option in OPTIONS:
        assert "-" not in option


def test_a_missing_address_says_what_it_must_be() -> None:
    with pytest.raises(TypeError, match=r"NoneType, not text: it must be amqp://user:password@host"):
        Producer(None)  # type: ignore[arg-type]  # as os.environ.get returns it


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("timeout", value) for value in (0, -1, float("nan"), float("inf"))),
        ("max_bytes", 0),
        ("connect_timeout", 0),
        ("name", ""),
        ("name", "x" * 300),
        ("name", "\udce9"),
    ],
)
def test_a_limit_or_name_that_breaks_each_send_is_refused_in_the_constructor(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{name}="):
        Producer(GOOD, **{name: value})  # type: ignore[arg-type]  # which is the point


def test_a_producer_has_the_limits_of_its_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {
        "JOBKIT_BROKER_URL": f"{GOOD}, amqp://jobs:s3cret@other/shop",
        "JOBKIT_SEND_TIMEOUT_SECONDS": "3.5",
        "JOBKIT_MAX_MESSAGE_BYTES": "2048",
        "JOBKIT_HEARTBEAT_SECONDS": "17",
        "JOBKIT_CONNECT_TIMEOUT_SECONDS": "1.5",
    }.items():
        monkeypatch.setenv(name, value)
    sender = Producer.from_settings(name="shop")._sender
    assert vars(sender)["max_bytes"] == 2048
    assert vars(sender)["_timeout"] == 3.5
    connection = vars(sender)["_connection"]
    assert (connection.heartbeat, connection.connect_timeout, connection.name) == (17, 1.5, "shop")
    assert connection.urls == (GOOD, "amqp://jobs:s3cret@other/shop")


def test_a_producer_in_production_needs_the_address_of_the_broker_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBKIT_ENVIRONMENT", "production")
    monkeypatch.setenv("JOBKIT_BROKER_URL", GOOD)
    assert vars(Producer.from_settings()._sender)["_connection"].urls == (GOOD,)
