"""Trap 22: a process holds many messages ahead because its jobs are quick, and then they are not."""

import threading
from collections import Counter

import pika
from in_process import Ours, until
from queues import depth, wait_for_queue

from jobkit.run.dispatcher import RUNS

THREADS = 2
FEW, MANY = 2 * THREADS, 8 * THREADS  # messages that the process holds


def consumers(url: str) -> int:
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        count: int = connection.channel().queue_declare("work", passive=True).method.consumer_count
        return count


def test_more_is_held_while_jobs_are_quick_and_less_as_soon_as_one_is_not(ours: Ours, vhost_url: str) -> None:
    may_end, names = threading.Event(), iter(range(10_000))

    def send(count: int) -> None:
        for _ in range(count):
            ours.send(f"job-{next(names)}")

    with ours.working(THREADS):
        wait_for_queue(vhost_url, "work")
        send(RUNS)
        until(lambda: len(ours.ends) == RUNS, "all have run")
        until(lambda: consumers(vhost_url) == 2, "more is taken")
        ours.do = lambda _name: may_end.wait(20)
        send(3 * MANY)
        until(lambda: depth(vhost_url, "work") == 2 * MANY, "so many are held")
        may_end.set()
        until(lambda: consumers(vhost_url) == 1, "as one was long, no more is taken than of other jobs")
        until(lambda: len(ours.ends) == RUNS + 3 * MANY, "all have run")
        may_end.clear()
        ours.do = lambda _name: may_end.wait(20)
        send(MANY)
        until(lambda: depth(vhost_url, "work") == MANY - FEW, "so few are held")
        may_end.set()
        until(lambda: len(ours.ends) == RUNS + 4 * MANY, "all have run")
    assert max(Counter(ours.runs).values()) == 1
    assert depth(vhost_url, "work") == 0
