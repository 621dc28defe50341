"""Backing services for the tests: real ones, started when the first test asks, one of each for the whole session."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import psycopg
import pytest
from cluster import Cluster
from ledger import Ledger
from missing_servers import pytest_runtest_call, pytest_runtest_setup
from tested_on import note, pytest_sessionfinish, pytest_terminal_summary, pytest_testnodedown
from vhosts import Vhosts

from jobkit.producer import Producer
from local_stack.mailcatcher import MailCatcher
from local_stack.node import Node
from local_stack.postgres import Postgres
from local_stack.rabbitmq import RabbitMQ
from local_stack.redis import Redis

__all__ = [  # hooks that pytest finds here
    "pytest_runtest_call",
    "pytest_runtest_setup",
    "pytest_sessionfinish",
    "pytest_terminal_summary",
    "pytest_testnodedown",
]

AnyNode = TypeVar("AnyNode", bound=Node)


@contextmanager
def _running(node: AnyNode, config: pytest.Config) -> Iterator[AnyNode]:
    """Run a node for the session, and kill it at the end: nobody reads its data again, and RabbitMQ stops slowly."""
    try:
        node.start()
        note(config, node)
        yield node
    finally:
        node.kill()


@pytest.fixture(scope="session")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[RabbitMQ]:
    """A RabbitMQ node that a test may kill, if it starts it again."""
    with _running(RabbitMQ(tmp_path_factory.mktemp("rabbitmq"), management=True), pytestconfig) as node:
        yield node


@pytest.fixture(scope="session")
def vhosts(rabbitmq: RabbitMQ) -> Vhosts:
    """The virtual hosts of the node's tests."""
    return Vhosts(rabbitmq)


@pytest.fixture
def vhost_url(vhosts: Vhosts) -> Iterator[str]:
    """Address of a virtual host that no other test sees, on a node that runs."""
    with vhosts.one() as url:
        yield url


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Cluster]:
    """Three RabbitMQ nodes; a test may kill one, and start the cluster again."""
    with Cluster(tmp_path_factory.mktemp("cluster")) as three:
        note(pytestconfig, three.nodes[0])
        yield three


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[Redis]:
    """A Redis node that a test may kill, if it starts it again."""
    with _running(Redis(tmp_path_factory.mktemp("redis")), pytestconfig) as node:
        yield node


@pytest.fixture
def redis_url(redis_server: Redis) -> str:
    """Address of an empty Redis."""
    redis_server.start()
    redis_server.flush()
    return redis_server.url


@pytest.fixture
def producer(vhost_url: str) -> Iterator[Producer]:
    """Sends jobs, and waits out a broker that is being started."""
    with Producer(vhost_url, timeout=30) as built:
        yield built


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Where the worker processes of the test write down what they do."""
    return Ledger(tmp_path / "ledger")


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[str]:
    """Address of a PostgreSQL database; ``postgres_schema`` is a room of a test's own in it."""
    with _running(Postgres(tmp_path_factory.mktemp("postgres")), pytestconfig) as node:
        yield node.url


@pytest.fixture
def postgres_schema(postgres_url: str) -> Iterator[str]:
    """Address of the database with a schema in front that no other test sees."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
        yield f"{postgres_url}?options=-csearch_path%3D{name}"
        connection.execute(f"DROP SCHEMA {name} CASCADE")


@pytest.fixture(scope="session")
def _mail_server(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[MailCatcher]:
    with _running(MailCatcher(tmp_path_factory.mktemp("mail")), pytestconfig) as node:
        yield node


@pytest.fixture
def mail_catcher(_mail_server: MailCatcher) -> MailCatcher:
    """A mail server that delivers nothing and keeps everything; it holds no message yet."""
    _mail_server.start()
    _mail_server.clear()
    return _mail_server
