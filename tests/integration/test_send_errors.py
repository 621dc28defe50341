"""A send that fails says why, at once where waiting cannot help, and the time of one node is not that of another."""

import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from urllib.parse import quote, urlsplit
from uuid import uuid4

import pika
import pytest
from probe_service import Probe
from queues import depth

from jobkit.access import Access
from jobkit.broker.connection import ConnectionSettings
from jobkit.broker.declarations import declare
from jobkit.broker.sender import Sender
from jobkit.errors import BrokerUnavailable, Unroutable
from jobkit.producer import Producer
from jobkit.refusals import LOGIN, Refusals
from local_stack.ports import free_port
from local_stack.rabbitmq import RabbitMQ


def vhost_of(url: str) -> str:
    return urlsplit(url).path.removeprefix("/")


@contextmanager
def user(rabbitmq: RabbitMQ, url: str, configure: str, write: str = ".*") -> Iterator[str]:
    """The address of the virtual host for a user who may declare and write to only what the patterns match."""
    name = f"user-{uuid4().hex[:8]}"
    rabbitmq.call("PUT", f"/api/users/{name}", {"password": "s3cret", "tags": ""})
    permissions = {"configure": configure, "write": write, "read": ".*"}
    rabbitmq.call("PUT", f"/api/permissions/{quote(vhost_of(url), safe='')}/{name}", permissions)
    yield url.replace("guest:guest", f"{name}:s3cret")
    rabbitmq.call("DELETE", f"/api/users/{name}")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("guest:guest", "guest:s3cret"), "refused the user or password"),
        (("guest:guest", "nobody:s3cret"), "refused the user or password"),
        (("/test-", "/no-test-"), "has no such vhost"),
    ],
    ids=["password", "user", "vhost"],
)
def test_a_refused_login_fails_each_send_at_once(vhost_url: str, change: tuple[str, str], reason: str) -> None:
    with Producer(vhost_url.replace(*change), timeout=20) as producer:
        for _ in range(2):
            started = time.monotonic()
            with pytest.raises(BrokerUnavailable, match=reason) as refusal:
                producer.send(Probe())
            assert time.monotonic() - started < 5
            assert "s3cret" not in str(refusal.value)


def test_a_producer_whose_user_is_let_in_again_goes_on(vhost_url: str, rabbitmq: RabbitMQ) -> None:
    with user(rabbitmq, vhost_url, ".*") as url, Producer(url) as producer:
        name = urlsplit(url).username
        rabbitmq.call("PUT", f"/api/users/{name}", {"password": "other", "tags": ""})
        with pytest.raises(BrokerUnavailable, match="refused the user or password"):
            producer.send(Probe())
        rabbitmq.call("PUT", f"/api/users/{name}", {"password": "s3cret", "tags": ""})
        assert producer.send(Probe()).queue == "probe"


def test_a_worker_whose_publisher_alone_is_refused_knows_it_until_it_is_let_in(
    vhost_url: str, rabbitmq: RabbitMQ, caplog: pytest.LogCaptureFixture
) -> None:
    refusals = Refusals()
    with user(rabbitmq, vhost_url, ".*") as url:
        connection = ConnectionSettings([url])
        producer, name = Producer.over(Sender(connection, app_id="test", refusals=refusals)), urlsplit(url).username
        access = Access({}, refusals, costly={LOGIN: connection.demand})
        rabbitmq.call("PUT", f"/api/users/{name}", {"password": "other", "tags": ""})
        for _ in range(2):
            with pytest.raises(BrokerUnavailable):
                producer.send(Probe())
        access.look()
        assert ["refused the user or password" in text for text in refusals.problems(timedelta())] == [True]
        rabbitmq.call("PUT", f"/api/users/{name}", {"password": "s3cret", "tags": ""})
        access.look()  # nobody sends
        assert refusals.longest() == timedelta()
        with producer:
            producer.send(Probe())
    said = [record.getMessage() for record in caplog.records if record.name.startswith("jobkit")]
    assert len([line for line in said if "refused the user" in line]) == 1


def test_a_binding_that_may_not_be_made_is_warned_of(vhost_url: str, rabbitmq: RabbitMQ) -> None:
    with ConnectionSettings([vhost_url]).open() as connection:
        declare(connection, ["probe"])
    limited = user(rabbitmq, vhost_url, "^$", write="^(amq.default|jobkit.*)$")
    with limited as url, ConnectionSettings([url]).open() as connection:
        (_, bindings) = declare(connection, ["probe"]).split("; the user")
    assert "may not bind queue 'probe.dlq' to exchange 'probe.dlx' and 3 more" in bindings
    with user(rabbitmq, vhost_url, "^$") as url, ConnectionSettings([url]).open() as connection:
        assert "may not bind" not in declare(connection, ["probe"]), "it was made once more, and so exists"


def test_a_memory_alarm_is_named(vhost_url: str, rabbitmq: RabbitMQ) -> None:
    with Producer(vhost_url, timeout=1) as producer:
        producer.send(Probe())
        rabbitmq.ctl("set_vm_memory_high_watermark", "absolute", "1MB")
        try:
            with pytest.raises(BrokerUnavailable, match="takes no messages, it is low on memory"):
                producer.send(Probe())
        finally:
            rabbitmq.ctl("set_vm_memory_high_watermark", "0.6")
    with Producer(vhost_url, timeout=20) as producer:
        producer.send(Probe())


def test_a_node_that_does_not_answer_leaves_time_for_the_next(vhost_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"amqp://127.0.0.1:{silent.getsockname()[1]}/,{vhost_url}"
        with Producer(url, timeout=1, connect_timeout=1) as producer:
            assert producer.send(Probe(), delay=timedelta(seconds=1)).queue == "probe"
            started = time.monotonic()
            producer.send(Probe())
            assert time.monotonic() - started < 1


def test_silent_nodes_alone_end_the_wait_after_one_attempt() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"amqp://127.0.0.1:{silent.getsockname()[1]}/"
        with Producer(url, timeout=0.3, connect_timeout=0.5) as producer:
            started = time.monotonic()
            with pytest.raises(BrokerUnavailable, match="cannot be reached"):
                producer.send(Probe())
            assert time.monotonic() - started < 4


def test_a_broker_that_is_down_costs_no_more_than_the_timeout() -> None:
    with Producer(f"amqp://127.0.0.1:{free_port()}/", timeout=0.5) as producer:
        started = time.monotonic()
        with pytest.raises(BrokerUnavailable, match="cannot be reached"):
            producer.send(Probe())
        assert time.monotonic() - started < 3


def test_a_queue_that_exists_is_used_by_a_user_who_may_not_declare_it(
    vhost_url: str, rabbitmq: RabbitMQ, caplog: pytest.LogCaptureFixture
) -> None:
    with ConnectionSettings([vhost_url]).open() as connection:
        assert declare(connection, ["probe", "probe.high"]) == ""
    with user(rabbitmq, vhost_url, "^$") as url, Producer(url) as producer:
        producer.send(Probe())
        producer.send(Probe(), delay=timedelta(seconds=1))
        producer.send(Probe(), delay=timedelta(seconds=1), lane="high")
    warnings = [record.getMessage() for record in caplog.records if "may not declare" in record.getMessage()]
    assert len(warnings) == 1
    assert "arguments were not compared" in warnings[0]
    deadline = time.monotonic() + 10
    while (depth(vhost_url, "probe"), depth(vhost_url, "probe.high")) != (2, 1):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("delay", [None, timedelta(seconds=1)], ids=["now", "delayed"])
@pytest.mark.parametrize("configure", ["^$", r"^jobkit\."], ids=["nothing", "delays"])
def test_a_missing_queue_that_the_user_may_not_make_is_unroutable(
    vhost_url: str, rabbitmq: RabbitMQ, configure: str, delay: timedelta | None
) -> None:
    with user(rabbitmq, vhost_url, configure) as url, Producer(url) as producer:
        started = time.monotonic()
        with pytest.raises(Unroutable, match="start the worker of 'probe' once, or import the definitions"):
            producer.send(Probe(), delay=delay)
        assert time.monotonic() - started < 8


def test_a_user_who_may_declare_a_service_but_not_the_delays_makes_its_queues(
    vhost_url: str, rabbitmq: RabbitMQ
) -> None:
    with ConnectionSettings([vhost_url]).open() as connection:
        declare(connection, ["other"])
    with user(rabbitmq, vhost_url, "^probe") as url, Producer(url) as producer:
        producer.send(Probe(), delay=timedelta(seconds=1))
    with pika.BlockingConnection(pika.URLParameters(vhost_url)) as connection:
        connection.channel().queue_declare("probe.dlq", passive=True)


CERTIFICATE = (
    "openssl",
    "req",
    "-x509",
    "-newkey",
    "ec",
    "-pkeyopt",
    "ec_paramgen_curve:P-256",
    "-nodes",
    "-days",
    "2",
)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, str]]:
    """The port of a server that speaks TLS and nothing else, and its certificate for the name ``rabbit``."""
    folder = tmp_path_factory.mktemp("tls")
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    name = ["-subj", "/CN=rabbit", "-addext", "subjectAltName=DNS:rabbit"]
    subprocess.run([*CERTIFICATE, *files, *name], check=True, capture_output=True, timeout=30)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = threading.Event()

        def serve() -> None:
            while not closed.is_set():
                try:
                    peer, _ = server.accept()
                    peer.settimeout(5)
                    with context.wrap_socket(peer, server_side=True) as secure:
                        secure.recv(8)
                except OSError:
                    continue

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1], str(folder / "cert.pem")
        closed.set()


def tls_error(address: str) -> str:
    with Producer(address, timeout=20) as producer:
        started = time.monotonic()
        with pytest.raises(BrokerUnavailable) as error:
            producer.send(Probe())
        assert time.monotonic() - started < 8
    assert "s3cret" not in str(error.value)
    return str(error.value)


def test_a_certificate_of_an_unknown_authority_says_where_to_name_it(tls: tuple[int, str]) -> None:
    line = tls_error(f"amqps://jobs:s3cret@localhost:{tls[0]}/")
    assert "its certificate is not trusted" in line
    assert "ca_certs" in line


def test_a_certificate_for_another_host_says_so(tls: tuple[int, str]) -> None:
    port, certificate = tls
    options = quote(str({"ca_certs": certificate}))
    assert "is for another host name" in tls_error(f"amqps://jobs:s3cret@localhost:{port}/?ssl_options={options}")


def test_tls_to_the_plain_port_names_the_port(vhost_url: str) -> None:
    line = tls_error(vhost_url.replace("amqp://guest:guest", "amqps://jobs:s3cret"))
    assert "does not speak TLS" in line
    assert "5671" in line


def test_no_tls_to_the_port_of_tls_names_it_in_the_error(tls: tuple[int, str]) -> None:
    with (
        Producer(f"amqp://jobs:s3cret@localhost:{tls[0]}/", timeout=1) as producer,
        pytest.raises(BrokerUnavailable, match="check host, port and TLS"),
    ):
        producer.send(Probe())
