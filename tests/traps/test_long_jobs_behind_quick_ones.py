"""Trap 22: a process holds many messages ahead because its jobs are quick, and then they are not.

It takes them by a second consumer, which may be lost like the first one.
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator

import dramatiq
import pika
import pika.frame
import pytest
from in_process import Ours, until
from pika.spec import Basic
from queues import depth, wait_for_queue, wait_until_empty
from sockets import cut

from jobkit.broker.consumer import RabbitmqConsumer
from jobkit.broker.session import Session
from jobkit.run.dispatcher import RUNS

THREADS = 2
FEW, MANY = 2 * THREADS, 8 * THREADS  # messages that the process holds


def consumers(url: str) -> int:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        count: int = connection.channel().queue_declare("work", passive=True).method.consumer_count
        return count


def session_of(worker: dramatiq.Worker) -> Session | None:
    consumer = worker.consumers["work"].consumer
    return consumer._session if isinstance(consumer, RabbitmqConsumer) else None


class Stage:
    """A service whose jobs are quick until they are told to wait."""

    def __init__(self, ours: Ours, url: str) -> None:
        self.ours, self.url = ours, url
        self.may_end = threading.Event()
        self._names = (f"job-{number}" for number in range(10_000))

    def send(self, count: int) -> None:
        for _ in range(count):
            self.ours.send(next(self._names))

    def warm_up(self) -> None:
        """Let jobs be quick, so that more is taken ahead; those that are sent from now on wait."""
        wait_for_queue(self.url, "work")
        self.send(RUNS)
        until(lambda: len(self.ours.ends) == RUNS, "all have run")
        until(lambda: consumers(self.url) == 2, "more is taken")
        self.let_wait()

    def hold_many(self) -> None:
        """Send more than is held."""
        self.send(3 * MANY)
        until(lambda: depth(self.url, "work") == 2 * MANY, "so many are held")

    def let_wait(self) -> None:
        self.may_end.clear()
        self.ours.do = lambda _name: self.may_end.wait(20)

    def each_ran_once(self) -> bool:
        return max(Counter(self.ours.runs).values()) == 1


@pytest.fixture
def stage(ours: Ours, vhost_url: str) -> Iterator[Stage]:
    built = Stage(ours, vhost_url)
    yield built
    built.may_end.set()


def test_more_is_held_while_jobs_are_quick_and_less_as_soon_as_one_is_not(stage: Stage) -> None:
    with stage.ours.working(THREADS):
        stage.warm_up()
        stage.hold_many()
        stage.may_end.set()
        until(lambda: consumers(stage.url) == 1, "as one was long, no more is taken than of other jobs")
        until(lambda: len(stage.ours.ends) == RUNS + 3 * MANY, "all have run")
        stage.let_wait()
        stage.send(MANY)
        until(lambda: depth(stage.url, "work") == MANY - FEW, "so few are held")
        stage.may_end.set()
        until(lambda: len(stage.ours.ends) == RUNS + 4 * MANY, "all have run")
    assert stage.each_ran_once()
    assert depth(stage.url, "work") == 0


def cancel(session: Session, tag: str | None) -> None:
    """Let the client get the ``basic.cancel`` of one consumer, as of one with an ack that is overdue."""
    channel = session.channel
    frame = pika.frame.Method(channel.channel_number, Basic.Cancel(consumer_tag=tag))
    session.connection.add_callback_threadsafe(lambda: channel.connection._impl._process_frame(frame))


@pytest.mark.parametrize(
    "lose",
    [
        pytest.param(lambda _session, port: cut(port), id="connection"),
        pytest.param(lambda session, _port: cancel(session, session._consumer_tag), id="first consumer"),
        pytest.param(lambda session, _port: cancel(session, session._extra_tag), id="second consumer"),
    ],
)
def test_all_that_is_held_comes_again_when_a_consumer_is_lost_and_runs_once(
    stage: Stage, amqp_port: int, lose: Callable[[Session, int], object]
) -> None:
    with stage.ours.working(THREADS) as worker:
        stage.warm_up()
        stage.hold_many()
        session = session_of(worker)
        assert session is not None
        lose(session, amqp_port)
        until(lambda: session_of(worker) not in {None, session}, "the worker takes messages again")
        until(lambda: consumers(stage.url) == 2, "more is taken, as no job was long so far")
        stage.may_end.set()
        until(lambda: len(stage.ours.ends) == RUNS + 3 * MANY, "all have run")
        wait_until_empty(stage.url, "work")
    assert stage.each_ran_once()


def test_a_worker_that_stops_gives_back_all_that_it_holds_and_nothing_that_has_ended(stage: Stage) -> None:
    with stage.ours.working(THREADS) as worker:
        stage.warm_up()
        stage.hold_many()
        stopping = threading.Thread(target=worker.stop, kwargs={"timeout": 20_000})
        stopping.start()
        until(lambda: depth(stage.url, "work") == 3 * MANY - THREADS, "all is back but what runs")
        stage.may_end.set()
        stopping.join(20)
        until(lambda: consumers(stage.url) == 0, "the broker has heard its last word")
        assert depth(stage.url, "work") == 3 * MANY - THREADS
    assert len(stage.ours.ends) == RUNS + THREADS
    assert stage.each_ran_once()
