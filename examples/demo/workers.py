"""The services as real processes, the same that `make run` runs, on RabbitMQ and Redis."""

import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pika
import pika.exceptions
from backing import Backing
from board import Letter
from runtime import QUEUES
from services import NAMES

from jobkit.broker.topology import dead_letter_queue
from jobkit.contracts.job import PLATFORM
from jobkit.deadletters import Failure
from jobkit.producer import Producer
from jobkit.store.redis import RedisStore
from local_stack.process import Process
from local_stack.procfile import read_procfile

STOP_SECONDS = 15.0  #: Nothing runs any more when they are stopped, so that they end within two.
MOST_LETTERS = 20  #: More than could be read on a screen.


class Workers:
    """Worker processes and the scheduler; implements ``Runtime``.

    Args:
        processes: What was started, by name.
        logs: Where each of them writes.
        backing: Broker and store.
    """

    def __init__(self, processes: Mapping[str, Process], logs: Path, backing: Backing) -> None:
        self._processes = processes
        self._logs = logs
        self._parameters = pika.URLParameters(backing.broker_url)
        self._connection: pika.BlockingConnection | None = None
        broker, store = urlsplit(backing.broker_url), urlsplit(backing.store_url)
        self.title = f"worker processes on {backing.title} (RabbitMQ at port {broker.port}, Redis at {store.port})"
        self.producer = Producer(backing.broker_url, name="demo")
        self.store = RedisStore(backing.store_url, timedelta(hours=1))

    @property
    def programs(self) -> Mapping[str, bool]:
        """The processes, and whether they live."""
        return {name: process.alive for name, process in self._processes.items()}

    @property
    def logs(self) -> Sequence[Path]:
        """One file per process."""
        return sorted(self._logs.glob("*.log"))

    def depths(self) -> Mapping[str, int]:
        """Ask the broker itself; its management API would be seconds behind."""
        queues = [*QUEUES, *map(dead_letter_queue, [*NAMES, PLATFORM])]
        return {queue: self._depth(queue) for queue in queues}

    def dead_letters(self, service: str) -> Sequence[Letter]:
        """Read without acknowledging: closing the connection puts every letter back."""
        letters = []
        with pika.BlockingConnection(self._parameters) as connection:
            channel = connection.channel()
            for _ in range(MOST_LETTERS):
                method, properties, _body = channel.basic_get(dead_letter_queue(service))
                if method is None or properties is None:
                    break
                failure = Failure.from_headers(properties.headers, service)
                letters.append(Letter(str(properties.type), str(properties.message_id), failure))
        return letters

    def stop(self) -> None:
        """SIGTERM to all at once, then wait for each."""
        for process in self._processes.values():
            process.signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for process in self._processes.values():
            if not process.wait(max(0.0, deadline - time.monotonic())):
                process.kill()

    def close(self) -> None:
        """Close the connections."""
        self.producer.close()
        self.store.close()
        if self._connection is not None and self._connection.is_open:
            self._connection.close()

    def _depth(self, queue: str) -> int:
        if self._connection is None or not self._connection.is_open:
            self._connection = pika.BlockingConnection(self._parameters)
        channel = self._connection.channel()
        try:
            count = int(channel.queue_declare(queue, passive=True).method.message_count)
        except pika.exceptions.ChannelClosedByBroker:  # nobody has made it yet
            return 0
        channel.close()
        return count


@contextmanager
def running(procfile: Path, folder: Path, variables: Mapping[str, str], backing: Backing) -> Iterator[Workers]:
    """All programs of the Procfile, for as long as the block lasts.

    Args:
        procfile: What to run.
        folder: For their logs.
        variables: All of theirs.
        backing: Broker and store.
    """
    folder.mkdir()
    here = Path(sys.executable).parent  # where this environment has its commands
    processes: dict[str, Process] = {}
    workers = Workers(processes, folder, backing)
    try:
        for program in read_procfile(procfile):
            command = [str(here / program.command[0]), *program.command[1:]]
            processes[program.name] = Process.spawn(command, log=folder / f"{program.name}.log", environment=variables)
        yield workers
    finally:
        workers.stop()
        workers.close()
