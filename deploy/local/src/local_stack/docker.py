"""The Docker engine, where there is one, and the backing services that it runs."""

import json
import subprocess
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from local_stack.backing import USED, Backing
from local_stack.errors import LocalStackError, NodeFailed

SERVICES = ("rabbitmq", "redis", "postgres", "mailpit")  #: The backing services among those of the compose file.

_ANSWER_SECONDS = 5
_UP_SECONDS = 900  # images come over the network
_DOWN_SECONDS = 120


def engine_answers() -> bool:
    """Tell whether a Docker engine with the compose plugin answers, within some ten seconds at most."""
    try:
        for command in (["docker", "info"], ["docker", "compose", "version"]):
            done = subprocess.run(  # noqa: S603  a fixed command, found on the PATH
                command, capture_output=True, stdin=subprocess.DEVNULL, timeout=_ANSWER_SECONDS, check=False
            )
            if done.returncode != 0:
                return False
    except (OSError, subprocess.TimeoutExpired):
        return False
    return True


def reason(error: LocalStackError) -> str:
    """Return the last line of what compose said: the one that names the cause."""
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), "no reason was given")


class Compose:
    """The backing services of ``deploy/compose.yaml``.

    Args:
        file: the compose file.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def up(self) -> None:
        """Start the backing services and wait until they are healthy.

        Raises:
            NodeFailed: they did not come up. Those that this call has started are stopped again.
        """
        before = self.running()
        try:
            self._run("up", "--detach", "--wait", *SERVICES, seconds=_UP_SECONDS)
        except NodeFailed:
            with suppress(NodeFailed):  # the first error is the one that helps
                self.down([name for name in self.running() if name not in before])
            raise

    def down(self, services: Collection[str] = SERVICES) -> None:
        """Stop backing services; what they hold stays in their volumes.

        Raises:
            NodeFailed: compose failed.
        """
        if services:  # without a name, compose would stop everything
            self._run("stop", *services, seconds=_DOWN_SECONDS)

    def running(self) -> list[str]:
        """Return the names of the backing services that run."""
        names = self._run("ps", "--services", "--status", "running", seconds=_DOWN_SECONDS).split()
        return [name for name in SERVICES if name in names]

    def environment(self) -> dict[str, str]:
        """Return the variables by which services on this machine reach the containers.

        Raises:
            NodeFailed: the compose file publishes none of the ports, or cannot be read.
        """
        services = json.loads(self._run("config", "--format", "json", seconds=_DOWN_SECONDS))["services"]
        broker = self._outside(services["email"]["environment"]["JOBKIT_BROKER_URL"])
        user = urlsplit(broker).netloc.rpartition("@")[0]
        return {
            USED: Backing.DOCKER.value,
            "JOBKIT_BROKER_URL": broker,
            "JOBKIT_STORE_URL": self._outside(services["email"]["environment"]["JOBKIT_STORE_URL"]),
            "EMAIL_SMTP_URL": self._outside(services["email"]["environment"]["EMAIL_SMTP_URL"]),
            "LOCAL_POSTGRES_URL": self._outside(services["etl"]["environment"]["ETL_DATABASE_URL"]),
            "LOCAL_MANAGEMENT_URL": f"http://{user}@{self._address('rabbitmq', 15672)}",
            "LOCAL_MAIL_URL": f"http://{self._address('mailpit', 8025)}",
        }

    def _outside(self, url: str) -> str:
        """What this machine reaches a URL by that holds inside the containers' network."""
        parts = urlsplit(url)
        user, at, _ = parts.netloc.rpartition("@")
        published = self._address(str(parts.hostname), int(parts.port or 0))
        return parts._replace(netloc=f"{user}{at}{published}").geturl()

    def _address(self, service: str, port: int) -> str:
        published = self._run("port", service, str(port), seconds=_DOWN_SECONDS).strip().splitlines()
        return published[0].replace("0.0.0.0", "127.0.0.1")  # noqa: S104  how compose spells "every interface"

    def _run(self, *arguments: str, seconds: float) -> str:
        command = ["docker", "compose", "-f", str(self._file), *arguments]
        try:
            done = subprocess.run(  # noqa: S603  a fixed command, found on the PATH
                command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=seconds, check=False
            )
        except subprocess.TimeoutExpired:
            raise NodeFailed(f"{' '.join(command)} did not end within {seconds:g} s") from None
        if done.returncode != 0:
            raise NodeFailed(f"{' '.join(command)} failed:\n{done.stderr.strip()}")
        return done.stdout
