"""The benchmark's senders send what they say, and time it."""

import time
from collections.abc import Iterable
from typing import Self

import pytest
from bench_job import Load
from timed_sender import DELAY, PACE, send


class Recorder:
    """Sends nothing."""

    def __init__(self) -> None:
        self.single: list[Load] = []
        self.many: list[tuple[list[Load], int]] = []

    def send(self, load: Load) -> None:
        self.single.append(load)

    def send_many(self, loads: Iterable[Load], delay: int = 0) -> None:
        self.many.append((list(loads), delay))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...


@pytest.mark.parametrize("how", ["one_by_one", "bulk", "fill", "paced", "delayed"])
def test_as_many_jobs_are_sent_as_were_asked_for(how: str) -> None:
    sender = Recorder()
    before = time.time()
    assert send(sender, how, 6, Load(0.0, 0.5, "xyz")) > 0
    jobs = [*sender.single, *(job for jobs, _ in sender.many for job in jobs)]
    assert len(jobs) == 6
    assert all(job.seconds == 0.5 and job.data == "xyz" for job in jobs)
    assert all(before <= job.sent <= time.time() for job in jobs)
    assert len(sender.single) == (5 if how in {"one_by_one", "paced"} else 0)
    assert {delay for _, delay in sender.many} == {DELAY if how == "delayed" else 0}


def test_jobs_at_an_even_pace_keep_their_distance() -> None:
    sender = Recorder()
    rate = send(sender, "paced", 11, Load(0.0))
    assert rate <= PACE * 1.01
    sent = [job.sent for job in sender.single]
    assert sent[-1] - sent[0] >= 0.8 * 9 / PACE
