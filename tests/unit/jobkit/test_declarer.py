"""What one connection of a process has declared, its others do not declare again."""

import logging
import math
import os
import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext
from unittest.mock import Mock

import pytest
from pika.adapters.blocking_connection import BlockingConnection
from pika.exceptions import ChannelClosedByBroker

from jobkit.broker import declarations
from jobkit.broker.declarations import Outcome, Part, parts_of, shared_parts
from jobkit.broker.declarer import Declarer
from jobkit.errors import DeclarationRefused

SHARED = {step.what for part in shared_parts() for step in part.steps}


class Log:
    """Notes what is declared instead of asking a broker, and answers as it is told."""

    def __init__(self) -> None:
        self.made: list[set[str]] = []
        self.missing: list[str] = []
        self.refused = False

    def __call__(self, _connection: BlockingConnection, parts: Sequence[Part]) -> Outcome:
        if self.refused:
            raise DeclarationRefused("no")
        self.made.append({step.what for part in parts for step in part.steps})
        return Outcome(missing=[what for what in self.missing if what in self.made[-1]])


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    made = Log()
    monkeypatch.setattr(declarations, "carry_out", made)
    return made


def ensure(declarer: Declarer, *queues: str, since: float = 0.0) -> None:
    declarer.ensure(queues, lambda: nullcontext(Mock()), since=since)


def own(queue: str) -> set[str]:
    return {step.what for part in parts_of(queue) for step in part.steps}


def test_each_thing_is_declared_once(log: Log) -> None:
    declarer = Declarer()
    for queue in ("email", "email.high", "email", "email.high"):
        ensure(declarer, queue)
    assert log.made == [SHARED | own("email"), own("email.high")]


def test_one_connection_of_many_that_were_lost_declares_again(log: Log) -> None:
    declarer = Declarer()
    ensure(declarer, "email")
    lost_at = time.monotonic()
    for _ in range(3):
        ensure(declarer, "email", since=lost_at)
    assert log.made == [SHARED | own("email")] * 2


def test_a_declaration_may_be_asked_for_in_any_case(log: Log) -> None:
    declarer = Declarer()
    for _ in range(2):
        ensure(declarer, "email", since=math.inf)
    assert len(log.made) == 2


def test_what_was_refused_is_declared_by_the_next(log: Log) -> None:
    declarer, log.refused = Declarer(), True
    with pytest.raises(DeclarationRefused):
        ensure(declarer, "email")
    log.refused = False
    ensure(declarer, "email")
    assert log.made == [SHARED | own("email")]


@pytest.mark.parametrize("missing", ["queue 'due.email'", "exchange 'jobkit.due'", "queue 'jobkit.dlq'"])
def test_a_missing_due_queue_is_told_once_and_found_when_it_is_there(
    log: Log, caplog: pytest.LogCaptureFixture, missing: str
) -> None:
    declarer, log.missing = Declarer(), [missing]
    for _ in range(2):
        ensure(declarer, "email", since=math.inf)
    assert not declarer.has_due_queue("email")
    assert declarer.has_due_queue("images") == (missing == "queue 'due.email'")
    (line,) = (record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
    assert f"RabbitMQ has no {missing}" in line
    log.missing = []
    ensure(declarer, "email", since=time.monotonic())
    assert declarer.has_due_queue("email")


def test_a_missing_exchange_for_jobs_leaves_the_due_queue(log: Log) -> None:
    declarer, log.missing = Declarer(), ["exchange 'email.jobs'"]
    ensure(declarer, "email")
    assert declarer.has_due_queue("email")


def test_a_forked_child_declares_though_a_thread_of_the_parent_did_at_the_fork(log: Log) -> None:
    declarer, holds, over = Declarer(), threading.Event(), threading.Event()

    def hold() -> None:
        with declarer._lock:
            holds.set()
            over.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    assert holds.wait(10)
    child = os.fork()
    if child == 0:
        ensure(declarer, "email")
        os._exit(len(log.made))
    over.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1


def test_a_queue_that_another_client_is_making_at_this_moment_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "NOT_FOUND - home node 'rabbit@a' of durable queue 'jobkit.delay.01' in vhost '/' is down or inaccessible"
    answers = Mock(side_effect=[ChannelClosedByBroker(404, text), ChannelClosedByBroker(404, text), None])
    monkeypatch.setattr(declarations, "_in_one_go", answers)
    assert declarations.carry_out(Mock(), shared_parts()) == Outcome()
    assert answers.call_count == 3


@pytest.mark.parametrize(
    ("code", "text"), [(404, "NOT_FOUND - no queue 'email' in vhost '/'"), (406, "'email' is down or inaccessible")]
)
def test_no_other_refusal_is_waited_for(monkeypatch: pytest.MonkeyPatch, code: int, text: str) -> None:
    answers = Mock(side_effect=ChannelClosedByBroker(code, text))
    monkeypatch.setattr(declarations, "_in_one_go", answers)
    with pytest.raises(ChannelClosedByBroker):
        declarations.carry_out(Mock(), shared_parts())
    assert answers.call_count == 1
