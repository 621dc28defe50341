"""A client of one version: sends jobs and reads records."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from generations import Generation
from versions import HERE, Version

from jobkit.contracts import Job


class Client:
    """Runs ``client_program.py`` with one version of jobkit, until the block ends.

    Args:
        version: Which jobkit it imports.
        folder: Where its log goes.
        broker: The address of RabbitMQ.
        store: The address of Redis.
        generation: Which contracts it has.
    """

    def __init__(self, version: Version, folder: Path, broker: str, store: str, generation: Generation = "old") -> None:
        self.version = version
        self._environment = {**os.environ, **version.environment(), "UPGRADE_CONTRACTS": generation}
        self._log = folder / f"client-{version.name}.log"
        self._command = [sys.executable, str(HERE / "client_program.py"), broker, store]

    def send(self, job: Job, *, lane: str = "normal", key: str | None = None, delay: float = 0.0) -> str:
        """Send a job, and return its id. ``delay`` is in seconds."""
        payload = job.model_dump(mode="json")
        answer = self._ask(do="send", contract=type(job).__name__, fields=payload, lane=lane, key=key, delay=delay)
        return str(answer)

    def record(self, contract: type[Job], job_id: str) -> dict[str, Any] | None:  # Any: each field has its type
        """Return state, attempt, crashes and result of a job, as this version reads its record."""
        answer: dict[str, Any] | None = self._ask(do="record", contract=contract.__name__, job_id=job_id)
        return answer

    def child_id(self, parent: type[Job], job_id: str, child: Job) -> str:
        """Return the id of ``child``, the first job that the job of this id sends."""
        payload = child.model_dump(mode="json")
        asked = {"parent": parent.__name__, "job_id": job_id, "child": type(child).__name__, "fields": payload}
        return str(self._ask(do="child_id", **asked))

    def is_breaker_open(self, name: str) -> bool:
        """Return whether this version reads that a breaker is open."""
        return bool(self._ask(do="is_breaker_open", name=name))

    def announce_tick(self) -> None:
        """Write the shop's schedule as this version's worker did a day ago."""
        self._ask(do="announce_tick")

    def advance_tick(self, moment: datetime) -> None:
        """Note that the tick of this moment was sent, as this version's scheduler does."""
        self._ask(do="advance_tick", moment=moment.timestamp())

    def last_tick(self) -> datetime:
        """Return the last tick of the shop's schedule, as this version reads it."""
        return datetime.fromtimestamp(self._ask(do="last_tick"), UTC)

    def is_tick_sent(self) -> bool:
        """Return whether this version reads that the tick of last midnight was sent."""
        return bool(self._ask(do="is_tick_sent"))

    def _ask(self, **asked: object) -> Any:  # Any: what JSON holds
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:  # Any: what JSON holds
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the client of {self.version.name} has ended:\n{self._log.read_text()}"
        return json.loads(line)

    def __enter__(self) -> Self:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        imported = self._answer()
        assert imported == str(self.version.root), f"the client of {self.version.name} runs {imported}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()  # it ends with its input
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        assert self._process.stdout is not None
        self._process.stdout.close()
