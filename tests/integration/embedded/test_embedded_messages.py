"""A whole worker in this process: payloads and results that fit, and those that do not."""

import threading
from datetime import timedelta
from typing import Any

import pytest
from dramatiq import Message
from embedded_stage import Desk, Stage, Versioned, Work, failing, until

from jobkit import waits
from jobkit.context import Context
from jobkit.errors import PermanentError
from jobkit.store.base import JobKey, JobState


@pytest.mark.parametrize("result", [object(), threading.Lock(), {"key": object()}, "x" * 300_000, "\ud800"])
def test_a_result_that_cannot_be_recorded_does_not_make_the_work_be_done_again(stage: Stage, result: object) -> None:
    stage.desk.do = lambda _job, _context: result
    record = stage.wait(stage.producer.send(Work()), JobState.DEAD)
    stage.idle()
    assert "ResultNotKept: the result" in record.failure
    assert len(stage.desk.runs) == 1


@pytest.mark.parametrize(
    ("message", "reason", "says"),
    [
        (
            {"options": {"contract_version": 3, "refused": 3600}, "actor_name": "versioned"},
            "newer_contract",
            "version 3",
        ),
        ({"kwargs": {"name": ["x"]}}, "bad_payload", "name"),
        ({"args": (1,)}, "bad_payload", "args"),
    ],
)
def test_a_message_that_breaks_the_contract_dies_before_any_code_runs(
    stage: Stage, message: dict[str, Any], reason: str, says: str
) -> None:
    fields = {
        "queue_name": "work",
        "actor_name": "work",
        "args": (),
        "kwargs": {},
        "options": {},
        "message_id": "m",
        "message_timestamp": 1,
    }
    stage.exchange.send([Message(**{**fields, **message})])
    failure = stage.dead_letter().failure
    assert failure.reason == reason
    assert says in failure.message
    assert stage.desk.runs == []


def test_fields_that_a_newer_contract_has_gained_are_ignored_and_kept(stage: Stage) -> None:
    stage.desk.do = failing(PermanentError("no"))
    stage.exchange.send([Message("work", "work", (), {"name": "a", "colour": "red"}, {}, "newer", 1)])
    assert stage.dead_letter().message.kwargs == {"name": "a", "colour": "red"}
    assert stage.desk.runs == [("a", 1)]


def test_a_message_of_a_newer_contract_waits_for_a_newer_worker_and_uses_up_no_attempt(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waits, "FIRST_WAIT", timedelta(milliseconds=10))
    stage.exchange.send([Message("work", "versioned", (), {}, {"contract_version": 3}, "early", 1)])
    key = JobKey("work", "versioned", "early")
    until(lambda: (found := stage.store.record(key)) is not None and found.state is JobState.WAITING)
    waiting = stage.store.record(key)
    assert waiting is not None
    assert (waiting.attempt, "update the worker" in waiting.waits_for) == (0, True)
    monkeypatch.setattr(Versioned, "version", 3)
    until(lambda: stage.desk.runs == [("versioned", 1)])
    assert stage.exchange.dead_letters("work") == []


def test_an_older_payload_is_run_by_a_newer_worker(stage: Stage) -> None:
    stage.exchange.send([Message("work", "versioned", (), {}, {}, "old", 1)])
    until(lambda: stage.desk.runs == [("versioned", 1)])


def test_progress_can_be_read_while_the_job_runs(stage: Stage) -> None:
    reported, go_on = threading.Event(), threading.Event()

    def do(_job: Work, context: Context[Desk]) -> None:
        context.progress(140, "resize", "3 of 7")
        context.progress(42.5, "resize", "3 of 7")
        reported.set()
        go_on.wait(5)

    stage.desk.do = do
    receipt = stage.producer.send(Work())
    assert reported.wait(5)
    record = stage.record(receipt)
    assert record is not None
    assert (record.state, record.percent, record.step, record.note) == (JobState.RUNNING, 42.5, "resize", "3 of 7")
    go_on.set()
    assert stage.wait(receipt, JobState.DONE).percent == 100
