"""RabbitMQ and Redis for the demo: those that are up, else containers, else private nodes."""

import base64
import json
import socket
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from local_stack import docker, packages, servers
from local_stack.backing import SWITCH, chosen, used
from local_stack.backing import Backing as Kind
from local_stack.docker import Compose
from local_stack.environment import read_environment
from local_stack.errors import LocalStackError, NodeFailed
from local_stack.rabbitmq import RabbitMQ
from local_stack.redis import Redis

VHOST = "demo-"  #: Followed by the run: workers of `make run` must not take the demo's jobs, nor the demo theirs.

NODES: tuple[servers.Service, ...] = ("rabbitmq", "redis")

Say = Callable[[str], object]


@dataclass(frozen=True)
class Backing:
    """Where broker and store are.

    Attributes:
        title: What they are, for the screen.
        broker_url: The broker.
        store_url: The store.
        stays: Whether they are still up when the demo has ended.
    """

    title: str
    broker_url: str
    store_url: str
    stays: bool

    @property
    def variables(self) -> Mapping[str, str]:
        """The variables that lead there."""
        return {"JOBKIT_BROKER_URL": self.broker_url, "JOBKIT_STORE_URL": self.store_url}


def open_backing(project: Path, folder: Path, run: str, *, say: Say) -> AbstractContextManager[Backing | None]:
    """Broker and store for as long as the block lasts; None where this machine can have neither.

    Args:
        project: The checkout.
        folder: For the files of private nodes.
        run: Names this run.
        say: Is told why a way was not possible.

    Raises:
        LocalStackError: the person chose a kind with ``BACKING``, and it is not available.
    """
    wanted = chosen()
    ways = (
        (wanted, lambda: _already_up(project / "var/local/environment", run, wanted)),
        (Kind.DOCKER, lambda: _containers(project / "deploy/compose.yaml", run)),
        (Kind.NODES, lambda: _private_nodes(folder, say)),
    )
    return _first_possible([way for kind, way in ways if wanted in {None, kind}], wanted, say)


@contextmanager
def _first_possible(
    ways: Sequence[Callable[[], AbstractContextManager[Backing | None]]], wanted: Kind | None, say: Say
) -> Iterator[Backing | None]:
    with ExitStack() as stack:
        for way in ways:
            try:
                backing = stack.enter_context(way())
            except LocalStackError as error:
                if wanted:
                    raise
                say(str(error))
                continue
            if backing is not None:
                yield backing
                return
        if wanted:
            raise LocalStackError(f"{SWITCH}={wanted}, but no Docker engine with the compose plugin answers")
        yield None


@contextmanager
def _already_up(environment: Path, run: str, wanted: Kind | None) -> Iterator[Backing | None]:
    """What `make up` has started."""
    variables = read_environment(environment)
    other = wanted not in {None, used(variables)}
    if not variables or other or not all(_answers(variables[f"JOBKIT_{part}_URL"]) for part in ("BROKER", "STORE")):
        yield None
        return
    yield _in_a_vhost("the nodes of `make up`", variables, run, stays=True)


@contextmanager
def _containers(file: Path, run: str) -> Iterator[Backing | None]:
    if not file.exists() or not docker.engine_answers():
        yield None
        return
    compose = Compose(file)
    stays = bool(compose.running())  # somebody else's: of `make stack`, say, whose workers need them
    try:
        compose.up()
    except NodeFailed as error:
        raise NodeFailed(f"Docker cannot start the containers: {docker.reason(error)}") from error
    try:
        yield _in_a_vhost("containers", compose.environment(), run, stays=stays)
    finally:
        if not stays:
            compose.down()


@contextmanager
def _private_nodes(folder: Path, say: Say) -> Iterator[Backing | None]:
    packages.ensure(NODES, say=say)
    rabbitmq, redis = RabbitMQ(folder / "rabbitmq"), Redis(folder / "redis")
    try:
        for node in (rabbitmq, redis):
            node.launch()
        for node in (rabbitmq, redis):
            node.wait()
        yield Backing("private nodes", rabbitmq.url, redis.url, stays=False)
    finally:
        for node in (rabbitmq, redis):
            node.kill()  # nobody reads their data again, and RabbitMQ stops slowly


def _in_a_vhost(title: str, variables: Mapping[str, str], run: str, *, stays: bool) -> Backing:
    """A virtual host for this run alone; those of earlier runs go."""
    management, broker = variables["LOCAL_MANAGEMENT_URL"], urlsplit(variables["JOBKIT_BROKER_URL"])
    try:
        for vhost in _call(management, "GET", "/api/vhosts"):
            if vhost["name"].startswith(VHOST):
                _call(management, "DELETE", f"/api/vhosts/{quote(vhost['name'], safe='')}")
        name = f"{VHOST}{run}"
        _call(management, "PUT", f"/api/vhosts/{name}")
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        _call(management, "PUT", f"/api/permissions/{name}/{broker.username}", everything)
    except OSError as error:
        raise NodeFailed(f"RabbitMQ is up, but its management API does not make a virtual host: {error}") from error
    return Backing(title, urlunsplit(broker._replace(path=f"/{name}")), variables["JOBKIT_STORE_URL"], stays=stays)


def _call(management: str, method: str, path: str, body: object = None) -> list[dict[str, str]]:
    url = urlsplit(management)
    credentials = base64.b64encode(f"{url.username}:{url.password}".encode()).decode()
    request = urllib.request.Request(
        f"http://{url.hostname}:{url.port}{path}",
        None if body is None else json.dumps(body).encode(),
        {"Authorization": f"Basic {credentials}", "Content-Type": "application/json"},
        method=method,
    )
    with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310  the same
        text = response.read()
    answer: list[dict[str, str]] = json.loads(text) if text else []
    return answer


def _answers(url: str) -> bool:
    parts = urlsplit(url)
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=2):
            return True
    except OSError:
        return False
