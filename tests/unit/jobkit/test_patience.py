"""An outage is waited out; what would fail again is not."""

import logging
import threading
from collections.abc import Callable
from datetime import timedelta

import pytest

from jobkit.effects import Call, Seam, take
from jobkit.errors import (
    AccessRefused,
    BrokerUnavailable,
    JobkitError,
    MessageTooLarge,
    SendRefused,
    StoreRefused,
    StoreUnavailable,
)
from jobkit.patience import Patience, WorkerStopping, perform
from jobkit.refusals import LOGIN, Refusals


class Flaky:
    """Fails as told, then answers."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        return "answer"


def before(patience: Patience, operation: Callable[[], object]) -> object:
    return take(patience.before(lambda: Call(Seam.STORE, "ask", operation)), perform)


def after(patience: Patience, operation: Callable[[], object]) -> object:
    return take(patience.after(lambda: Call(Seam.STORE, "ask", operation)), perform)


def patience(stopping: threading.Event | None = None) -> Patience:
    return Patience(stopping or threading.Event(), threading.Event(), first=0.001, longest=0.002)


@pytest.mark.parametrize("kind", [StoreUnavailable, BrokerUnavailable, SendRefused])
def test_an_outage_is_waited_out(kind: type[Exception]) -> None:
    operation = Flaky(*(kind("away") for _ in range(5)))
    assert before(patience(), operation) == "answer"
    assert operation.calls == 6


@pytest.mark.parametrize("error", [ValueError("wrong"), MessageTooLarge("too large")])
def test_what_would_fail_again_is_raised_at_once(error: Exception) -> None:
    operation = Flaky(error, error)
    with pytest.raises(type(error)):
        before(patience(), operation)
    assert operation.calls == 1


def test_a_worker_that_stops_ends_the_waiting_with_the_reason() -> None:
    stopping = threading.Event()
    stopping.set()
    operation = Flaky(*(StoreUnavailable("redis does not answer") for _ in range(5)))
    with pytest.raises(WorkerStopping, match="redis does not answer"):
        before(Patience(stopping, threading.Event(), first=60, longest=60), operation)
    assert operation.calls == 1


def test_a_worker_that_stops_still_does_what_works() -> None:
    stopping = threading.Event()
    stopping.set()
    assert before(patience(stopping), Flaky()) == "answer"


def test_an_outage_is_said_once_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "jobkit.patience")
    waiting = patience()
    for _ in range(2):
        before(waiting, Flaky(*(StoreUnavailable("redis does not answer") for _ in range(4))))
        before(waiting, Flaky())
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["redis does not answer; jobs wait for it", "answers again; jobs go on"] * 2


def test_another_kind_of_outage_is_said_as_well(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "jobkit.patience")
    before(patience(), Flaky(StoreUnavailable("no store"), BrokerUnavailable("no broker")))
    assert [record.getMessage() for record in caplog.records][:2] == [
        "no store; jobs wait for it",
        "no broker; jobs wait for it",
    ]


def test_what_follows_from_a_job_is_seen_through_until_the_jobs_have_had_their_time() -> None:
    stopping, over = threading.Event(), threading.Event()
    stopping.set()
    waiting = Patience(stopping, over, first=0.001, longest=0.002)
    assert after(waiting, Flaky(*(StoreUnavailable("no store") for _ in range(5)))) == "answer"
    over.set()
    with pytest.raises(WorkerStopping):
        waiting.see_through(Flaky(StoreUnavailable("no store")))


def test_a_broker_that_takes_nothing_from_our_user_is_a_refusal_until_it_does() -> None:
    refusals, answers = Refusals(), iter([AccessRefused("403"), AccessRefused("403"), None])
    seen: list[bool] = []
    patient = Patience(threading.Event(), threading.Event(), first=0.001, refusals=refusals)

    def publish() -> None:
        seen.append(bool(refusals.problems(timedelta(seconds=-1))))
        answer = next(answers)
        if answer is not None:
            raise answer

    patient.see_through(publish)
    assert seen == [False, True, True]
    assert refusals.longest() == timedelta()


@pytest.mark.parametrize("kind", [AccessRefused, StoreRefused])
def test_a_refusal_is_one_line_at_error_level_for_all_who_meet_it(
    kind: type[JobkitError], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    refusals = Refusals()
    patient = Patience(threading.Event(), threading.Event(), first=0.001, longest=0.002, refusals=refusals)
    refusals.report("the store of schedules", "no right")
    before(patient, Flaky(kind("no right"), kind("no right")))
    refusals.clear("the store of schedules")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("ERROR", "no right; jobs wait until that is mended"),
        ("INFO", "nothing refuses this process any more; jobs go on"),
    ]


def test_a_login_that_the_connection_has_reported_is_not_said_again(caplog: pytest.LogCaptureFixture) -> None:
    refusals = Refusals()
    refusals.report(LOGIN, "no login")
    patient = Patience(threading.Event(), threading.Event(), first=0.001, refusals=refusals)
    before(patient, Flaky(BrokerUnavailable("no login")))
    assert [record.getMessage() for record in caplog.records] == ["no login; jobs wait until that is mended"]
    assert refusals.has(LOGIN), "its reporter ends it"


def test_a_refusal_ends_with_the_last_job_that_waits_for_it() -> None:
    refusals, waits, given_back = Refusals(), threading.Event(), threading.Event()
    patient = Patience(threading.Event(), threading.Event(), first=0.001, longest=0.002, refusals=refusals)

    def publish() -> None:
        if not given_back.is_set():
            waits.set()
            raise AccessRefused("403")

    other = threading.Thread(target=patient.see_through, args=(publish,))
    other.start()
    assert waits.wait(10)
    with pytest.raises(WorkerStopping):  # this job gives up meanwhile: its delivery is gone, say
        patient.see_through(Flaky(*(AccessRefused("403") for _ in range(3))), unless=lambda: True)
    assert refusals.longest() > timedelta()
    given_back.set()
    other.join(10)
    assert refusals.longest() == timedelta()
