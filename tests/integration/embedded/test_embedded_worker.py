"""A whole worker in this process: how jobs run, are retried, die, and are answered from their records."""

import contextlib
import threading
import time
from datetime import timedelta

import pytest
from embedded_stage import WAIT, Desk, Once, Stage, Step, Work, failing, until

from jobkit.context import Context
from jobkit.errors import PermanentError, Snooze, TransientError
from jobkit.retry import custom, fixed, never
from jobkit.run.work_queue import WorkQueue
from jobkit.service import Service
from jobkit.settings import ServiceSettings
from jobkit.store.base import JobKey, JobState, Lease


def test_a_job_runs_once_and_its_result_is_recorded(stage: Stage) -> None:
    stage.desk.do = lambda job, context: {"hello": job.name, "fenced": context.fence > 0}
    record = stage.wait(stage.producer.send(Work(name="a")), JobState.DONE)
    assert record.result == b'{"hello":"a","fenced":true}'
    assert record.percent == 100
    assert stage.desk.runs == [("a", 1)]


def test_a_thread_that_records_lets_others_see_to_what_waits(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    told = threading.Event()
    monkeypatch.setattr(WorkQueue, "wait_elsewhere", lambda _queue: told.set())
    stage.wait(stage.producer.send(Work()), JobState.DONE)
    assert told.is_set()


def test_a_lane_is_served(stage: Stage) -> None:
    receipt = stage.producer.send(Work(), lane="high")
    stage.wait(receipt, JobState.DONE)
    assert receipt.queue == "work.high"


def test_a_failed_job_is_retried_until_it_succeeds(stage: Stage) -> None:
    stage.desk.do = failing(TransientError("busy"), TransientError("busy"))
    record = stage.wait(stage.producer.send(Work()), JobState.DONE)
    assert [attempt for _, attempt in stage.desk.runs] == [1, 2, 3]
    assert record.attempt == 3
    assert stage.exchange.dead_letters("work") == []


def test_a_job_whose_attempts_are_used_up_dies_with_its_story(stage: Stage) -> None:
    stage.desk.do = failing(*(TransientError(f"busy {n}") for n in range(9)))
    receipt = stage.producer.send(Work(name="hopeless"))
    failure = stage.dead_letter().failure
    assert (failure.reason, failure.type, failure.message) == ("attempts_exhausted", "TransientError", "busy 2")
    assert failure.attempts == 3
    assert failure.sent_at <= failure.first_failed_at < failure.died_at
    assert stage.dead_letter().message.kwargs == {"name": "hopeless"}
    assert stage.wait(receipt, JobState.DEAD).failure == "TransientError: busy 2"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PermanentError("no such address"), "permanent"),
        (ValueError("a mistake in the code"), "not_retried"),
        (SystemExit(3), "not_retried"),
        (KeyboardInterrupt(), "not_retried"),
    ],
)
def test_what_is_not_to_be_retried_dies_at_once_and_the_worker_lives(
    stage: Stage, error: BaseException, reason: str
) -> None:
    stage.desk.do = failing(error)
    stage.wait(stage.producer.send(Work(name="bad")), JobState.DEAD)
    assert stage.dead_letter().failure.reason == reason
    for number in range(4):
        stage.wait(stage.producer.send(Work(name=f"good {number}")), JobState.DONE)
    assert stage.desk.runs.count(("bad", 1)) == 1


def test_a_snooze_uses_up_no_attempt(stage: Stage) -> None:
    stage.desk.do = failing(*(Snooze(WAIT) for _ in range(6)))
    record = stage.wait(stage.producer.send(Work()), JobState.DONE)
    assert [attempt for _, attempt in stage.desk.runs] == [1] * 7
    assert record.attempt == 1


def test_snoozes_and_failures_are_told_apart(stage: Stage) -> None:
    stage.desk.do = failing(Snooze(WAIT), TransientError("busy"), Snooze(WAIT), Snooze(WAIT), TransientError("busy"))
    stage.wait(stage.producer.send(Work()), JobState.DONE)
    assert [attempt for _, attempt in stage.desk.runs] == [1, 1, 2, 2, 2, 3]


def test_a_duplicate_of_a_job_that_is_done_is_answered_from_its_record(stage: Stage) -> None:
    receipts = {stage.wait(stage.producer.send(Work(), key="invoice/17"), JobState.DONE).job for _ in range(5)}
    stage.idle()
    assert len(receipts) == 1
    assert len(stage.desk.runs) == 1


def test_a_duplicate_that_comes_while_the_job_runs_waits_and_is_then_answered(
    stage: Stage, brief_deferrals: None
) -> None:
    go_on = threading.Event()
    stage.desk.do = lambda _job, _context: go_on.wait(5)
    first = stage.producer.send(Work(), key="slow")
    until(lambda: len(stage.desk.runs) == 1)
    stage.producer.send(Work(), key="slow")
    until(lambda: stage.brokers[0].queues["work.DQ"].unfinished_tasks == 1)
    go_on.set()
    stage.wait(first, JobState.DONE)
    stage.idle()
    assert len(stage.desk.runs) == 1


def test_a_dead_job_that_is_sent_anew_runs_anew(stage: Stage) -> None:
    stage.desk.do = failing(PermanentError("no"))
    stage.wait(stage.producer.send(Work(), key="k"), JobState.DEAD)
    before = time.time()
    until(lambda: int(time.time() * 1000) > int(before * 1000))  # another timestamp: sent anew, not redelivered
    record = stage.wait(stage.producer.send(Work(), key="k"), JobState.DONE)
    assert record.attempt == 1


def test_a_job_that_took_down_three_workers_is_poison_and_does_not_run_again(stage: Stage) -> None:
    key = JobKey("work", "work", "deadly")
    for number in range(4):  # four leases that lapse: their workers never said a word
        assert isinstance(stage.store.acquire(key, str(number), ttl=timedelta(seconds=1), sent_at=1), Lease)
        stage.store.skipped += 2
    stage.producer.send(Work(), job_id="deadly")
    failure = stage.dead_letter().failure
    assert failure.reason == "poison"
    assert "4 workers died" in failure.message
    assert stage.desk.runs == []


def test_two_crashes_are_not_yet_poison(stage: Stage) -> None:
    key = JobKey("work", "work", "unlucky")
    for number in range(2):
        assert isinstance(stage.store.acquire(key, str(number), ttl=timedelta(seconds=1), sent_at=1), Lease)
        stage.store.skipped += 2
    stage.wait(stage.producer.send(Work(), job_id="unlucky"), JobState.DONE)
    assert stage.exchange.dead_letters("work") == []


def test_a_worker_that_stops_hands_its_waiting_jobs_back(stage: Stage) -> None:
    running, go_on = threading.Semaphore(0), threading.Event()

    def do(_job: Work, _context: Context[Desk]) -> None:
        running.release()
        go_on.wait(5)

    stage.desk.do = do
    for number in range(6):
        stage.producer.send(Work(name=str(number)))
    for _ in range(2):
        assert running.acquire(timeout=5)
    stopper = threading.Thread(target=stage.stop)
    stopper.start()
    until(stage.brokers[0].stopping.is_set)
    go_on.set()
    stopper.join(8)
    assert len(stage.desk.runs) == 2
    assert stage.brokers[0].queues["work"].qsize() == 4
    assert not stage.desk.is_open


def test_resources_are_open_while_jobs_run_and_closed_after_the_last() -> None:
    stage = Stage()
    states: list[bool] = []
    stage.desk.do = lambda _job, _context: states.append(stage.desk.is_open)
    stage.start()
    stage.wait(stage.producer.send(Work()), JobState.DONE)
    stage.stop()
    assert states == [True]
    assert not stage.desk.is_open


def test_a_declaration_that_cannot_work_is_refused_where_it_is_written() -> None:
    service: Service[ServiceSettings, None] = Service("work", lifespan=lambda _settings: contextlib.nullcontext())
    with pytest.raises(TypeError, match="goes to queue 'next'"):
        service.actor(Step)
    service.actor(Work)(lambda _job, _context: None)
    with pytest.raises(TypeError, match="two actors for Work"):
        service.actor(Work)


def test_actors_have_their_services_policy_and_time_limit_unless_they_have_their_own() -> None:
    service: Service[ServiceSettings, None] = Service(
        "work", lifespan=lambda _settings: contextlib.nullcontext(), retry=never(), time_limit=timedelta(minutes=5)
    )
    service.actor(Work)(lambda _job, _context: None)
    service.actor(Once, retry=fixed(1), time_limit=timedelta(minutes=1))(lambda _job, _context: None)
    declared = service.actors["work"], service.actors["once"]
    assert [one.retry.attempts for one in declared] == [1, 8]
    assert [one.time_limit for one in declared] == [timedelta(minutes=5), timedelta(minutes=1)]


def test_a_mistake_in_a_retry_policy_does_not_make_a_job_spin() -> None:
    stage = Stage()
    work = stage.brokers[0].get_actor("work")
    work.options["retry"] = custom(lambda _attempt, _failure: 1 / 0, cap=WAIT, attempts=3, jitter=0)
    stage.desk.do = failing(*(TransientError("busy") for _ in range(9)))
    stage.start()
    stage.producer.send(Work())
    try:
        assert stage.dead_letter().failure.attempts == 3
    finally:
        stage.stop()
    assert len(stage.desk.runs) == 3
