"""The closing lines of a run: the Python, broker, store and database that its tests used."""

import platform
from typing import Any

import psycopg
import pytest
import redis
from missing_servers import SWITCH, may_skip

from local_stack.errors import NodeFailed
from local_stack.node import Node
from local_stack.postgres import Postgres
from local_stack.rabbitmq import RabbitMQ
from local_stack.redis import Redis

SERVERS = (RabbitMQ.title, Redis.title, Postgres.title)

#: Versions by the title of the node. Two workers of pytest may have used one each.
_USED = pytest.StashKey[dict[str, set[str]]]()


def note(config: pytest.Config, node: Node) -> None:
    """Remember that the run used a node, which answers."""
    if node.title in SERVERS:
        _used(config).setdefault(node.title, set()).add(_version(node))


def _used(config: pytest.Config) -> dict[str, set[str]]:
    return config.stash.setdefault(_USED, {})


def _version(node: Node) -> str:
    if isinstance(node, RabbitMQ):
        overview = node.call("GET", "/api/overview")
        if not isinstance(overview, dict):
            raise NodeFailed(f"the management API answered {overview!r} instead of an overview")
        return str(overview["rabbitmq_version"])
    if isinstance(node, Redis):
        with redis.Redis.from_url(node.url) as client:
            return str(client.info("server")["redis_version"])
    with psycopg.connect(node.url) as connection:
        return str(connection.execute("SHOW server_version").fetchone()[0]).partition(" ")[0]  # type: ignore[index]  # SHOW has a row


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand over what a worker of pytest-xdist has used."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["used"] = {title: sorted(versions) for title, versions in _used(session.config).items()}


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:  # Any: a class of pytest-xdist, which has no types
    """Take what a worker has used; one that crashed hands nothing over."""
    for title, versions in getattr(node, "workeroutput", {}).get("used", {}).items():
        _used(node.config).setdefault(title, set()).update(versions)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Write the lines; the one with the counts follows and stays the last."""
    used = _used(config)
    parts = [f"{title} {' and '.join(sorted(used[title]))}" if title in used else f"no {title}" for title in SERVERS]
    terminalreporter.write_line(f"tested on Python {platform.python_version()}, {', '.join(parts)}")
    if may_skip():
        terminalreporter.write_line(f"{SWITCH}=1: tests whose server is not installed were skipped")
