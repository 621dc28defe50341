"""The project's containers, under a name of their own and on free ports, so that no other stack is touched."""

import json
import os
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]
PORTS = ("RABBITMQ_PORT", "RABBITMQ_MANAGEMENT_PORT", "REDIS_PORT", "POSTGRES_PORT", "MAIL_PORT", "MAIL_PAGE_PORT")

# Takes a key and standard input: what an upload to a bucket is elsewhere.
_STORE = (
    "import pathlib, sys; path = pathlib.Path('/data', sys.argv[1]); path.parent.mkdir(parents=True, exist_ok=True); "
    "path.write_bytes(sys.stdin.buffer.read())"
)


class Containers:
    """The stack of ``deploy/compose.yaml``."""

    def __init__(self) -> None:
        self._project = f"jobkit-test-{uuid.uuid4().hex[:8]}"
        self._environment = {**os.environ, **dict.fromkeys(PORTS, "0"), "JOBKIT_ENVIRONMENT": "test"}

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[Self]:
        """Build and start everything; remove it at the end, volumes too."""
        containers = cls()
        try:
            containers.compose("up", "--build", "--detach", "--wait", "--quiet-pull")
            yield containers
        except BaseException:
            print(containers.compose("logs", "--no-color", "--tail", "40").decode(errors="replace"))  # noqa: T201  pytest shows it with the failure
            raise
        finally:
            containers.compose("down", "--volumes", "--timeout", "5")

    def compose(self, *arguments: str, data: bytes | None = None, **variables: str) -> bytes:
        """Run ``docker compose`` on the stack, its file filled with variables, and return what it printed."""
        command = ("docker", "compose", "-p", self._project, "-f", "deploy/compose.yaml", *arguments)
        return self._run(*command, data=data, variables=variables)

    def address(self, service: str, port: int) -> str:
        """Where this machine reaches a published port."""
        return self.compose("port", service, str(port)).decode().strip()

    def variable(self, service: str, name: str) -> str:
        """What a service is told in its environment."""
        config = json.loads(self.compose("config", "--format", "json"))
        return str(config["services"][service]["environment"][name])

    def state(self, service: str) -> dict[str, Any]:
        """What the engine knows of a service's container: ``State``, ``RestartCount``, …"""
        container = self.compose("ps", "--all", "--quiet", service).decode().strip()
        found: list[dict[str, Any]] = json.loads(self._run("docker", "inspect", container))
        return found[0]

    def store(self, service: str, key: str, data: bytes) -> None:
        """Put an object into a service's storage."""
        self.compose("exec", "--no-TTY", service, "python", "-c", _STORE, key, data=data)

    def stored(self, service: str, key: str) -> bytes:
        """An object of a service's storage."""
        return self.compose("exec", "--no-TTY", service, "cat", f"/data/{key}")

    def kill_workers(self, service: str) -> None:
        """SIGKILL every process of a container but its first, which the kernel protects from within.

        ``docker kill`` would count as an operator's wish, after which no engine restarts the container.
        """
        script = "import os, signal; os.kill(-1, signal.SIGKILL)"
        self.compose("exec", "--no-TTY", service, "python", "-c", script)

    def kill_first_process(self, service: str) -> None:
        """SIGKILL a container's process 1 from the host's process table, as the kernel does when memory runs out."""
        pid = self.state(service)["State"]["Pid"]
        image = self.state(service)["Image"]
        script = f"import os, signal; os.kill({pid}, signal.SIGKILL)"
        self._run("docker", "run", "--rm", "--pid=host", "--user=0", "--entrypoint=python", image, "-c", script)

    def _run(self, *command: str, data: bytes | None = None, variables: Mapping[str, str] | None = None) -> bytes:
        environment = {**self._environment, **(variables or {})}
        done = subprocess.run(
            command, cwd=ROOT, env=environment, input=data or b"", capture_output=True, timeout=900, check=False
        )
        assert done.returncode == 0, f"{' '.join(command)} failed:\n{done.stderr.decode(errors='replace')[-4000:]}"
        return done.stdout
