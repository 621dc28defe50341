"""The two sides of every trap: Dramatiq as it comes, and jobkit."""

from collections.abc import Callable, Iterator
from contextlib import closing
from urllib.parse import unquote

import dramatiq.worker
import pytest
from in_process import LEASE, Ours, Stock

from local_stack.rabbitmq import RabbitMQ


@pytest.fixture
def amqp_port(rabbitmq: RabbitMQ) -> int:
    return rabbitmq.ports["AMQP"]


@pytest.fixture
def stock(vhost_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stock]:
    """Dramatiq on RabbitMQ, with shorter pauses than its own after a connection is lost."""
    monkeypatch.setattr(dramatiq.worker, "CONSUMER_RESTART_DELAY_SECS", 0.2)
    monkeypatch.setattr(dramatiq.worker, "POST_PROCESS_MESSAGE_RETRY_DELAY_SECS", 0.1)
    with closing(Stock(vhost_url)) as built:
        yield built


@pytest.fixture
def ours(vhost_url: str, redis_url: str) -> Iterator[Ours]:
    """jobkit on RabbitMQ and Redis."""
    with closing(Ours(vhost_url, redis_url)) as built:
        yield built


@pytest.fixture
def worker_settings(vhost_url: str, redis_url: str) -> dict[str, str]:
    """What a worker process is told, whichever of the two it is."""
    return {
        "JOBKIT_BROKER_URL": vhost_url,
        "JOBKIT_STORE_URL": redis_url,
        "JOBKIT_LEASE_SECONDS": str(LEASE),
        "JOBKIT_STORE_TIMEOUT_SECONDS": str(LEASE / 6),
    }


@pytest.fixture
def refuse_publishing(rabbitmq: RabbitMQ, vhost_url: str) -> Iterator[Callable[[bool], None]]:
    """Take the right to publish from whoever connects from now on, or give it back."""
    vhost = vhost_url.rsplit("/", 1)[1]
    assert unquote(vhost) == vhost

    def refuse(refused: bool) -> None:
        allowed = {"configure": ".*", "write": "^$" if refused else ".*", "read": ".*"}
        rabbitmq.call("PUT", f"/api/permissions/{vhost}/guest", allowed)

    yield refuse
    refuse(False)
