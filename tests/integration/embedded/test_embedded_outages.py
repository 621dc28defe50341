"""A whole worker in this process, while its store or its broker is away."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from dramatiq import Message
from embedded_stage import Desk, Once, Stage, Step, Work, failing, until

from jobkit import waits
from jobkit.broker.memory import MemoryBroker, MemoryExchange
from jobkit.context import Context
from jobkit.errors import BrokerUnavailable, SendRefused, StoreUnavailable, TransientError
from jobkit.run.carrier import Carrier
from jobkit.store.base import JobState


@pytest.mark.parametrize("method", ["acquire", "complete"])
def test_a_job_runs_exactly_once_through_an_outage_of_the_store(stage: Stage, method: str) -> None:
    stage.store.failures[method] = [StoreUnavailable("no answer") for _ in range(2)]
    stage.wait(stage.producer.send(Work()), JobState.DONE)
    stage.idle()
    assert len(stage.desk.runs) == 1
    assert stage.store.failures[method] == []


def test_a_retry_is_recorded_after_an_outage_and_no_attempt_is_lost(stage: Stage, brief_deferrals: None) -> None:
    stage.store.failures["release"] = [StoreUnavailable("no answer") for _ in range(2)]
    stage.desk.do = failing(TransientError("busy"))
    record = stage.wait(stage.producer.send(Work()), JobState.DONE)
    assert (record.attempt, len(stage.desk.runs)) == (2, 2)


def test_a_job_comes_back_when_a_hook_failed_before_its_end_was_recorded(stage: Stage) -> None:
    stage.store.failures["complete"] = [RuntimeError("a mistake in a hook")]

    def work_and_lose_the_lease(_job: Work, _context: Context[Desk]) -> None:
        stage.store.skipped += 60  # the lease that nobody gives back lapses

    stage.desk.do = work_and_lose_the_lease
    stage.wait(stage.producer.send(Work()), JobState.DONE)
    assert len(stage.desk.runs) == 2
    keepers = [one._path.keeper for one in stage.brokers[0].middleware if isinstance(one, Carrier)]
    until(lambda: not keepers[0]._kept)  # nobody renews the lease of a run that has ended


def test_nothing_is_lost_when_the_retry_cannot_be_published_for_a_while(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = [BrokerUnavailable("no broker"), BrokerUnavailable("no broker")]
    publish = MemoryBroker.enqueue

    def enqueue(self: MemoryBroker, message: Message[Any], *, delay: int | None = None) -> Message[Any]:
        if delay is not None and refusals:
            raise refusals.pop()
        return publish(self, message, delay=delay)

    monkeypatch.setattr(MemoryBroker, "enqueue", enqueue)
    stage.desk.do = failing(TransientError("busy"))
    record = stage.wait(stage.producer.send(Work()), JobState.DONE)
    assert (record.attempt, refusals) == (2, [])


def test_progress_that_cannot_be_recorded_does_not_fail_the_job(stage: Stage) -> None:
    stage.store.failures["report"] = [StoreUnavailable("no answer")]
    stage.desk.do = lambda _job, context: context.progress(50)
    assert stage.wait(stage.producer.send(Work()), JobState.DONE).attempt == 1


def test_a_job_waits_with_what_it_has_done_until_its_children_are_accepted(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = [BrokerUnavailable("no broker"), SendRefused("full"), BrokerUnavailable("no broker")]
    send = MemoryExchange.send

    def refuse(self: MemoryExchange, messages: Sequence[Message[Any]], *, delay: timedelta = timedelta()) -> None:
        if messages[0].actor_name == "step" and refusals:
            raise refusals.pop()
        send(self, messages, delay=delay)

    monkeypatch.setattr(MemoryExchange, "send", refuse)
    stage.desk.do = lambda _job, context: context.send(Step(name="child")).job_id
    record = stage.wait(stage.producer.send(Work()), JobState.DONE)
    stage.idle()
    assert (record.attempt, stage.desk.steps) == (1, ["child"]), "an outage burns no attempt"
    assert len(stage.desk.runs) == 1, "nor is what came before the send done again"


def test_a_job_that_met_an_outage_by_itself_runs_again_with_its_attempts(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waits, "FIRST_WAIT", timedelta(milliseconds=10))
    outages = [BrokerUnavailable("by a producer of its own")]

    def do(_job: Work, _context: Context[Desk]) -> None:
        if outages:
            raise outages.pop()

    stage.desk.do = do
    assert stage.wait(stage.producer.send(Work()), JobState.DONE).attempt == 1
    assert len(stage.desk.runs) == 2


def test_a_job_that_nobody_may_do_again_dies_of_an_outage_that_it_met(stage: Stage) -> None:
    stage.desk.do = failing(BrokerUnavailable("by a producer of its own"))
    stage.wait(stage.producer.send(Once()), JobState.DEAD)
    stage.idle()
    assert stage.desk.runs == [("once", 1)]
    assert stage.dead_letter().failure.reason == "attempts_exhausted"
