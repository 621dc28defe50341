"""``make up``, ``make down`` and ``make status``, for private nodes and for containers."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from local_stack import docker, packages, servers
from local_stack.backing import SWITCH, Backing, used
from local_stack.docker import Compose
from local_stack.environment import read_environment, write_environment
from local_stack.errors import LocalStackError, NodeFailed
from local_stack.stack import Stack

Say = Callable[[str], object]

_KINDS = {Backing.NODES: "private node", Backing.DOCKER: "container"}
_NO_ENGINE = "no Docker engine with the compose plugin answers"


@dataclass(frozen=True)
class Seen:
    """One backing service as it is now; ``state`` says why where that is not known."""

    name: str
    up: bool
    state: str


class Commands:
    """What a person tells the backing services to do.

    Args:
        folder: holds the files of private nodes, and the addresses of what is up.
        file: the compose file; without it there is no Docker.
        wanted: the kind that the person chose. By default that is the kind which is in use, else containers where a
            Docker engine can start them, else private nodes.
        say: receives each line for the person.
    """

    def __init__(self, folder: Path, file: Path, wanted: Backing | None, *, say: Say) -> None:
        self._stack = Stack(folder)
        self._wanted = wanted
        self._say = say
        self._file = file
        self._compose = Compose(file)
        #: ``NAME=value`` lines by which services reach what is up; it exists while that should be up.
        self.environment_file = folder / "environment"
        self._used = used(read_environment(self.environment_file))

    def up(self) -> None:
        """Start what does not run, write the addresses down and show them.

        Raises:
            LocalStackError: neither kind, or not the kind that was chosen, could be started.
        """
        variables = self._start()
        self.environment_file.parent.mkdir(parents=True, exist_ok=True)
        write_environment(self.environment_file, variables)
        for name, value in variables.items():
            self._say(f"{name:22} {value}")

    def down(self) -> None:
        """Stop what runs, of the chosen kind or of both, and say what that was.

        Raises:
            LocalStackError: containers are in use and cannot be stopped.
        """
        stopped = [] if self._wanted is Backing.DOCKER else [f"{name} (private node)" for name in self._stack.down()]
        if self._engine and (running := self._compose.running()):
            self._compose.down(running)
            stopped += [f"{name} (container)" for name in running]
        if self._wanted in {None, self._used}:
            if self._used is Backing.DOCKER and not self._engine:
                raise LocalStackError(f"containers are in use, but {_NO_ENGINE}: start it to stop them")
            self.environment_file.unlink(missing_ok=True)
        self._say(f"stopped: {', '.join(stopped)}" if stopped else "nothing was running")

    def status(self) -> bool:
        """Show each backing service of a kind that runs or should; True if all of the kind in use are up."""
        seen: dict[Backing, list[Seen]] = {}
        if self._wanted is not Backing.DOCKER:
            seen[Backing.NODES] = self._look_at_nodes()
        if self._wanted is Backing.DOCKER or self._engine or (self._used is Backing.DOCKER and self._wanted is None):
            seen[Backing.DOCKER] = self._look_at_containers()
        shown = {kind: each for kind, each in seen.items() if kind is self._used or any(one.up for one in each)}
        for kind, each in (shown or seen).items():
            for one in each:
                self._say(f"{one.name:18} {_KINDS[kind]:12}  {one.state}")
        if len(shown) > 1 and self._used:
            self._say(f"`make run` uses those of {SWITCH}={self._used}")
        decisive = [shown[self._used]] if self._used in shown else shown.values()
        return any(all(one.up for one in each) for each in decisive)

    @cached_property
    def _engine(self) -> bool:
        """Whether containers may be used and an engine is there to ask, which can take seconds."""
        return self._wanted is not Backing.NODES and self._file.exists() and docker.engine_answers()

    def _start(self) -> dict[str, str]:
        if self._wanted is Backing.DOCKER and not self._engine:
            raise LocalStackError(f"{SWITCH}=docker, but {_NO_ENGINE}: start one, or set {SWITCH}=nodes")
        keep = self._wanted is None and self._used is Backing.NODES and any(n.running for n in self._stack.nodes)
        if not self._engine or keep:
            return self._start_nodes()
        self._say(f"starting containers; images that are missing are fetched first ({SWITCH}=nodes needs none)")
        try:
            self._compose.up()
            return self._compose.environment()
        except NodeFailed as error:
            if self._wanted is Backing.DOCKER:
                raise
            self._say(f"Docker cannot start the containers, so private nodes are used instead: {docker.reason(error)}")
            return self._start_nodes()

    def _start_nodes(self) -> dict[str, str]:
        packages.ensure(servers.SERVERS, say=self._say)
        self._stack.up()
        return self._stack.environment()

    def _look_at_nodes(self) -> list[Seen]:
        up = {node: node.running and node.answers() for node in self._stack.nodes}
        return [Seen(node.title, answers, f"up    {node.url}" if answers else "down") for node, answers in up.items()]

    def _look_at_containers(self) -> list[Seen]:
        if not self._engine:
            return [Seen(name, False, f"unknown: {_NO_ENGINE}") for name in docker.SERVICES]
        running = self._compose.running()
        return [Seen(name, name in running, "up" if name in running else "down") for name in docker.SERVICES]
