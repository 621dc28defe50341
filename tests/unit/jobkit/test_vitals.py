"""When a worker is unhealthy: its consumers or threads do not do their work, and nothing else is the reason."""

import threading
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from jobkit.broker.consumer import RabbitmqConsumer
from jobkit.middleware.vitals import Reach, Vitals

STALL = 60.0
UNSUBSCRIBED = ["the consumer of email is not subscribed, though the broker answers"]
IDLE = ["messages are ready in email and a thread is free, but none has been taken for 60 s"]


class Worker:
    """A worker of two threads that consumes ``email`` at a clock of its own."""

    def __init__(self, prefetch: int = 4) -> None:
        self.now = 1000.0
        self.answers: bool | None = True
        self.consumer = RabbitmqConsumer(Mock(), "email", prefetch, 1000)
        self.thread = SimpleNamespace(is_alive=lambda: True, consumer=self.consumer)
        threads: Any = SimpleNamespace(workers=[self.thread], consumers={"email": self.thread}, worker_threads=2)
        self.vitals = Vitals(threads, STALL, lambda: self.answers, lambda: self.now)
        self.vitals.problems()

    def spend(self, seconds: float, *, beats: bool = True, ready: int | None = 0) -> list[str]:
        """Let time pass, in steps as the health check's, and return the last word."""
        found: list[str] = []
        for _ in range(int(seconds / 5)):
            self.now += 5
            if beats:
                self.consumer.pulse.beat_at = self.now
                if self.consumer.pulse.asked:
                    self.consumer.pulse.answer(ready)
            found = self.vitals.problems()
        return found


@pytest.fixture
def worker() -> Worker:
    return Worker()


def in_another_thread(vitals: Vitals) -> None:
    thread = threading.Thread(target=vitals.began, args=["email"])
    thread.start()
    thread.join()


def test_an_idle_worker_is_healthy_for_as_long_as_its_queue_is_empty(worker: Worker) -> None:
    assert worker.spend(3600) == []


def test_a_consumer_that_does_not_come_by_though_the_broker_answers_is_unhealthy_until_it_does(worker: Worker) -> None:
    assert worker.spend(STALL, beats=False) == []
    assert worker.spend(5, beats=False) == UNSUBSCRIBED
    worker.answers = None  # asked again, and not yet answered
    assert worker.spend(5, beats=False) == UNSUBSCRIBED
    assert worker.spend(5) == []


def test_a_consumer_that_never_came_into_being_is_unhealthy(worker: Worker) -> None:
    worker.thread.consumer = None  # as before Dramatiq's thread has made it
    assert worker.spend(STALL + 5, beats=False) == UNSUBSCRIBED


def test_a_consumer_that_fails_again_and_again_is_unhealthy(worker: Worker) -> None:
    found: list[str] = []
    for _ in range(20):  # Dramatiq makes another each time
        worker.thread.consumer = RabbitmqConsumer(Mock(), "email", 4, 1000)
        found = worker.spend(5, beats=False)
    assert found == UNSUBSCRIBED


def test_an_outage_of_the_broker_is_healthy_and_what_comes_after_it_has_its_time(worker: Worker) -> None:
    worker.answers = False
    assert worker.spend(3600, beats=False) == []
    worker.answers = True
    assert worker.spend(STALL - 15, beats=False) == []
    assert worker.spend(STALL, beats=False) == UNSUBSCRIBED


def test_messages_that_are_ready_and_not_taken_by_a_free_thread_are_unhealthy(worker: Worker) -> None:
    assert worker.spend(STALL, ready=3) == []
    assert worker.spend(STALL / 2, ready=3) == IDLE
    worker.consumer.pulse.taken_at = worker.now
    assert worker.spend(5, ready=2) == []


def test_messages_that_come_while_others_are_taken_are_healthy(worker: Worker) -> None:
    for _ in range(100):
        assert worker.spend(20, ready=3) == []
        worker.vitals.began("email")
        worker.vitals.ended("email")


def test_messages_that_wait_behind_busy_threads_are_healthy_and_free_ones_have_their_time(worker: Worker) -> None:
    worker.vitals.began("email")
    in_another_thread(worker.vitals)
    assert worker.spend(3600, ready=3) == []
    worker.vitals.ended("email")
    assert worker.spend(STALL, ready=3) == []
    assert worker.spend(5, ready=3) == IDLE


def test_messages_that_wait_because_the_prefetch_is_used_up_are_healthy() -> None:
    worker = Worker(prefetch=1)
    in_another_thread(worker.vitals)
    assert worker.spend(3600, ready=3) == []


def test_messages_of_a_queue_that_was_lost_meanwhile_have_their_time(worker: Worker) -> None:
    assert worker.spend(STALL, ready=3) == []
    worker.consumer.pulse.answer(None)  # the subscription was lost
    worker.spend(5, beats=False)
    assert worker.spend(STALL, ready=3) == []
    assert worker.spend(10, ready=3) == IDLE


def test_a_thread_that_has_died_is_unhealthy_at_once(worker: Worker) -> None:
    worker.thread.is_alive = lambda: False
    assert worker.vitals.problems() == ["a SimpleNamespace of this worker has died"]


def test_a_broker_that_takes_its_time_is_not_waited_for() -> None:
    connected = threading.Event()

    def connect() -> None:
        assert connected.wait(20)

    reach = Reach(connect)
    assert [reach(), reach()] == [None, None]
    connected.set()
    assert reach._thread is not None
    reach._thread.join(20)
    assert reach() is True


def test_a_broker_that_cannot_be_reached_does_not_answer() -> None:
    def connect() -> None:
        raise ConnectionRefusedError

    reach = Reach(connect)
    reach()
    assert reach._thread is not None
    reach._thread.join(20)
    assert reach() is False
