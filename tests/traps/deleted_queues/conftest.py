"""A RabbitMQ node of their own for tests that delete queues.

``vhosts.py`` tells what RabbitMQ 3.10 does if a queue is deleted at the wrong moment. Should these tests meet it, those
of other folders do not.
"""

from collections.abc import Iterator

import pytest
from tested_on import note
from vhosts import Vhosts

from local_stack.rabbitmq import RabbitMQ


@pytest.fixture(scope="module")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[RabbitMQ]:
    """A node for the tests of one file."""
    node = RabbitMQ(tmp_path_factory.mktemp("rabbitmq"), management=True)
    try:
        node.start()
        note(pytestconfig, node)
        yield node
    finally:
        node.kill()


@pytest.fixture(scope="module")
def vhosts(rabbitmq: RabbitMQ) -> Vhosts:
    """The virtual hosts of that node."""
    return Vhosts(rabbitmq)
