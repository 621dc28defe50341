"""All four services in this process, on the broker and store in memory: for machines without RabbitMQ and Redis."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import dramatiq
from board import Letter
from runtime import QUEUES
from services import NAMES

from email_service.actors import service as email
from email_service.settings import EmailSettings
from etl_service.actors import service as etl
from etl_service.settings import EtlSettings
from images_service.actors import service as images
from images_service.settings import ImagesSettings
from inference_service.actors import service as inference
from inference_service.settings import InferenceSettings
from jobkit.broker.memory import MemoryBroker, MemoryExchange
from jobkit.broker.topology import dead_letter_queue
from jobkit.producer import Producer
from jobkit.settings import load_platform
from jobkit.store.memory import MemoryStore

THREADS = 4  #: Per service, as each worker process has.
STOP_MILLISECONDS = 10_000


class Embedded:
    """The services in this process; implements ``Runtime``."""

    title = "all four services in this process, broker and store in memory"

    def __init__(self, log: Path) -> None:
        self._log = log
        self._exchange = MemoryExchange()
        self.store = MemoryStore()
        self.producer = Producer.over(self._exchange)
        self._brokers = self._embed()
        self._workers = {name: dramatiq.Worker(b, worker_threads=THREADS) for name, b in self._brokers.items()}
        self._running = False

    @property
    def programs(self) -> Mapping[str, bool]:
        """The services; none can end by itself."""
        return dict.fromkeys(self._workers, True)

    @property
    def logs(self) -> Sequence[Path]:
        """One file for all."""
        return [self._log]

    def start(self) -> None:
        """Start every service's worker threads."""
        self._running = True
        for worker in self._workers.values():
            worker.start()

    def depths(self) -> Mapping[str, int]:
        """Look into the queues."""
        waiting = {queue: self._exchange.broker_of(queue).queues[queue].qsize() for queue in QUEUES}
        dead = {dead_letter_queue(name): len(self._exchange.dead_letters(name)) for name in NAMES}
        return {**waiting, **dead}

    def dead_letters(self, service: str) -> Sequence[Letter]:
        """Look into the dead-letter queue."""
        letters = self._exchange.dead_letters(service)
        return [Letter(one.message.actor_name, one.message.message_id, one.failure) for one in letters]

    def stop(self) -> None:
        """End every service's worker threads."""
        if self._running:
            self._running = False
            with ThreadPoolExecutor(len(self._workers)) as pool:  # each waits seconds for its idle threads to notice
                for worker in self._workers.values():
                    pool.submit(worker.stop, timeout=STOP_MILLISECONDS)

    def _embed(self) -> dict[str, MemoryBroker]:
        platform, exchange, store = load_platform(), self._exchange, self.store
        return {
            "email": email.embed(exchange, store, platform, EmailSettings.load()),
            "images": images.embed(exchange, store, platform, ImagesSettings.load()),
            "etl": etl.embed(exchange, store, platform, EtlSettings.load()),
            "inference": inference.embed(exchange, store, platform, InferenceSettings.load()),
        }


@contextmanager
def running(folder: Path, variables: Mapping[str, str]) -> Iterator[Embedded]:
    """All services for as long as the block lasts.

    Args:
        folder: For the log.
        variables: What the services' processes would be given; they become this process's own.
    """
    folder.mkdir()
    log = folder / "embedded.log"
    logging.basicConfig(filename=log, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    os.environ.clear()
    os.environ.update(variables)
    services = Embedded(log)
    try:
        services.start()
        yield services
    finally:
        services.stop()
