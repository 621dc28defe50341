"""Trap 2: a job ends after the connection over which it came was lost.

A delivery's number counts from 1 on each channel, so on the next one it is another message's.
"""

import threading

from amqp import depth, wait_until_empty
from in_process import Ours, Stock, Twin, until
from sockets import cut


class Interrupted:
    """A slow job whose connection is lost while it runs; ``next`` is sent after that."""

    def __init__(self, twin: Twin, port: int) -> None:
        self.twin, self.port = twin, port
        self.finish, self.finish_again = threading.Event(), threading.Event()
        twin.do = self._do

    def _do(self, name: str) -> None:
        if name == "slow":
            event = self.finish if self.twin.runs.count("slow") == 1 else self.finish_again
            assert event.wait(20)

    def play(self) -> None:
        self.twin.send("first")  # takes number 1
        until(lambda: self.twin.ends == ["first"], "the first job ends")
        self.twin.send("slow")  # number 2; on the next connection it is number 1
        until(lambda: "slow" in self.twin.runs, "the slow job runs")
        assert cut(self.port)
        self.twin.send("next")  # number 2 on the next connection


def test_stock_acks_another_job_which_is_then_lost_with_its_worker(
    stock: Stock, vhost_url: str, amqp_port: int
) -> None:
    story = Interrupted(stock, amqp_port)
    with stock.working() as worker:
        story.play()
        until(lambda: worker.work_queue.qsize() == 2, "both wait for the only thread")
        story.finish.set()
        until(lambda: stock.runs.count("slow") == 2, "the slow job runs again")
        # The worker dies: all that it has not acked goes back to the queue.
        consumer = worker.consumers["work"]
        consumer.stop()
        consumer.join(10)
        consumer.close()
        left = depth(vhost_url, "work")
        ran = list(stock.runs)
        story.finish_again.set()
    assert ran == ["first", "slow", "slow"]
    assert left == 1, "the slow job is back in the queue, and the next one, which has not run, is not"


def test_the_ack_goes_with_its_connection_and_the_job_is_answered_from_its_record(
    ours: Ours, vhost_url: str, amqp_port: int
) -> None:
    story = Interrupted(ours, amqp_port)
    story.finish_again.set()
    with ours.working() as worker:
        story.play()
        until(lambda: worker.work_queue.qsize() == 2, "both wait for the only thread")
        story.finish.set()
        until(lambda: "next" in ours.ends, "the next job ends")
        wait_until_empty(vhost_url, "work")
    assert ours.ends == ours.runs == ["first", "slow", "next"]
    assert depth(vhost_url, "work") == 0
