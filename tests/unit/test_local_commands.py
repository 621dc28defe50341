"""`make up`, `make down` and `make status` with Docker, without it, and with one that cannot start containers."""

from collections.abc import Collection
from pathlib import Path

import pytest

from local_stack import commands, docker, packages
from local_stack.backing import Backing, chosen
from local_stack.commands import Commands
from local_stack.environment import read_environment
from local_stack.errors import LocalStackError, MissingPackages, NodeFailed

NO_PULL = (
    "docker compose up failed:\n rabbitmq Pulling\n"
    'Error response from daemon: Get "https://registry.example/v2/": dial tcp: i/o timeout\n'
)


class FakeNode:
    """A private node."""

    def __init__(self, machine: "Machine", title: str) -> None:
        self._machine, self.title = machine, title

    @property
    def url(self) -> str:
        return f"private://{self.title}"

    @property
    def running(self) -> bool:
        return self.title in self._machine.nodes

    def answers(self) -> bool:
        return True


class FakeStack:
    """Takes the place of `Stack`."""

    def __init__(self, machine: "Machine") -> None:
        self._machine = machine
        self.nodes = [FakeNode(machine, title) for title in ("RabbitMQ", "Redis")]

    def up(self) -> None:
        self._machine.nodes = {node.title for node in self.nodes}

    def down(self) -> list[str]:
        stopped, self._machine.nodes = sorted(self._machine.nodes), set()
        return stopped

    def environment(self) -> dict[str, str]:
        return {"LOCAL_BACKING": "nodes", "JOBKIT_BROKER_URL": "amqp://private"}


class FakeCompose:
    """Takes the place of `Compose`."""

    def __init__(self, machine: "Machine") -> None:
        self._machine = machine

    def up(self) -> None:
        if self._machine.refusal:
            raise NodeFailed(self._machine.refusal)
        self._machine.containers = list(docker.SERVICES)

    def down(self, services: Collection[str]) -> None:
        self._machine.containers = [name for name in self._machine.containers if name not in services]

    def running(self) -> list[str]:
        return self._machine.containers

    def environment(self) -> dict[str, str]:
        return {"LOCAL_BACKING": "docker", "JOBKIT_BROKER_URL": "amqp://container"}


class Machine:
    """A machine with or without a Docker engine, and what runs on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.engine = True
        self.refusal = ""
        self.nodes: set[str] = set()
        self.containers: list[str] = []
        self.said: list[str] = []
        (folder / "compose.yaml").touch()

    def commands(self, wanted: Backing | None = None) -> Commands:
        self.said = []
        return Commands(self.folder, self.folder / "compose.yaml", wanted, say=self.said.append)

    @property
    def broker(self) -> str:
        """Where services look for the broker."""
        return read_environment(self.folder / "environment").get("JOBKIT_BROKER_URL", "")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    built = Machine(tmp_path)
    monkeypatch.setattr(docker, "engine_answers", lambda: built.engine)
    monkeypatch.setattr(packages, "ensure", lambda *_, **__: None)
    monkeypatch.setattr(commands, "Stack", lambda _: FakeStack(built))
    monkeypatch.setattr(commands, "Compose", lambda _: FakeCompose(built))
    return built


def test_containers_are_used_where_an_engine_answers(machine: Machine) -> None:
    machine.commands().up()
    assert (machine.broker, machine.nodes) == ("amqp://container", set())
    assert machine.commands().status()
    assert machine.said == [f"{name:18} container     up" for name in docker.SERVICES]
    machine.commands().down()
    assert machine.said == [
        "stopped: rabbitmq (container), redis (container), postgres (container), mailpit (container)"
    ]
    assert (machine.broker, machine.containers) == ("", [])
    assert not machine.commands().status()


def test_an_engine_that_cannot_pull_gives_way_to_private_nodes_and_one_line_says_why(machine: Machine) -> None:
    machine.refusal = NO_PULL
    machine.commands().up()
    assert machine.broker == "amqp://private"
    [line] = [line for line in machine.said if "Docker" in line]
    assert line.startswith("Docker cannot start the containers, so private nodes are used instead: Error response")
    assert line.endswith("i/o timeout")
    assert machine.commands().status()
    assert machine.said == [f"{name:18} private node  up    private://{name}" for name in ("RabbitMQ", "Redis")]
    machine.commands().down()
    assert machine.said == ["stopped: RabbitMQ (private node), Redis (private node)"]


def test_containers_that_were_asked_for_are_not_replaced(machine: Machine) -> None:
    machine.refusal = NO_PULL
    with pytest.raises(NodeFailed, match="registry"):
        machine.commands(Backing.DOCKER).up()
    machine.engine = False
    with pytest.raises(LocalStackError, match=r"^BACKING=docker, but no Docker engine .* or set BACKING=nodes$"):
        machine.commands(Backing.DOCKER).up()
    assert (machine.broker, machine.nodes) == ("", set())


def test_nodes_that_were_asked_for_are_used_without_asking_the_engine(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker, "engine_answers", lambda: pytest.fail("the engine was asked"))
    machine.commands(Backing.NODES).up()
    assert machine.commands(Backing.NODES).status()
    machine.commands(Backing.NODES).down()
    assert (machine.broker, machine.nodes) == ("", set())


def test_nodes_that_are_in_use_stay_in_use(machine: Machine) -> None:
    machine.commands(Backing.NODES).up()
    machine.commands().up()
    assert (machine.broker, machine.containers) == ("amqp://private", [])


def test_status_and_down_tell_of_both_kinds_where_both_run(machine: Machine) -> None:
    machine.commands(Backing.NODES).up()
    machine.commands(Backing.DOCKER).up()
    assert machine.commands().status()
    assert sum("private node" in line for line in machine.said) == 2
    assert sum("container " in line for line in machine.said) == 4
    assert machine.said[-1] == "`make run` uses those of BACKING=docker"
    machine.commands(Backing.NODES).down()
    assert machine.broker == "amqp://container"
    machine.commands(Backing.NODES).up()
    machine.commands().down()
    assert len(machine.said[0].split(", ")) == 6
    assert (machine.broker, machine.nodes, machine.containers) == ("", set(), [])


def test_status_is_bad_where_a_part_of_what_is_in_use_is_down(machine: Machine) -> None:
    machine.commands().up()
    machine.containers.remove("redis")
    assert not machine.commands().status()
    assert "redis              container     down" in machine.said


def test_containers_of_an_engine_that_has_gone_are_neither_called_up_nor_stopped(machine: Machine) -> None:
    machine.commands().up()
    machine.engine = False
    assert not machine.commands().status()
    assert all("unknown: no Docker engine" in line for line in machine.said)
    with pytest.raises(LocalStackError, match="start it to stop them"):
        machine.commands().down()
    assert machine.broker == "amqp://container"


def test_missing_packages_are_an_error_and_not_an_address(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise MissingPackages("run as root: apt-get install")

    monkeypatch.setattr(packages, "ensure", refuse)
    machine.engine = False
    with pytest.raises(MissingPackages):
        machine.commands().up()
    assert machine.broker == ""


def test_nothing_that_runs_is_said_so(machine: Machine) -> None:
    machine.commands().down()
    assert machine.said == ["nothing was running"]


@pytest.mark.parametrize(("value", "expected"), [("", None), (" nodes ", Backing.NODES), ("docker", Backing.DOCKER)])
def test_the_switch_is_read(value: str, expected: Backing | None) -> None:
    assert chosen({"BACKING": value}) == expected


@pytest.mark.parametrize("value", ["podman", "Docker", "node"])
def test_an_unknown_kind_is_refused_with_those_that_there_are(value: str) -> None:
    with pytest.raises(LocalStackError, match=rf"^BACKING={value} is not known: set it to nodes or docker"):
        chosen({"BACKING": value})


def test_what_a_failed_start_of_containers_has_started_is_stopped_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "docker"
    # `redis` runs from before, `postgres` is started, then `rabbitmq` cannot be pulled.
    tool.write_text(
        "#!/bin/sh\n"
        f'echo "$*" >> {tmp_path}/calls\n'
        f'case "$*" in *" ps "*) cat {tmp_path}/running ;; '
        f'*" up "*) echo postgres >> {tmp_path}/running; echo "no pull" >&2; exit 1 ;; esac\n'
    )
    tool.chmod(0o755)
    (tmp_path / "running").write_text("redis\n")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(NodeFailed, match="no pull"):
        docker.Compose(tmp_path / "compose.yaml").up()
    assert (tmp_path / "calls").read_text().splitlines()[-1].endswith(" stop postgres")
