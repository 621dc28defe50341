"""A whole worker in this process, with middleware that is none of ours."""

from typing import Any

import pytest
from dramatiq import Broker
from dramatiq.broker import MessageProxy
from dramatiq.middleware import CurrentMessage, Middleware, MiddlewareError, SkipMessage
from embedded_stage import Stage, Work, failing

from jobkit.run.carrier import Carrier
from jobkit.store.base import JobState


def test_a_job_that_is_skipped_by_its_own_code_is_done_and_no_crash(stage: Stage) -> None:
    stage.desk.do = failing(SkipMessage("nothing to do"))
    receipt = stage.producer.send(Work())
    assert stage.wait(receipt, JobState.DONE).crashes == 0
    stage.idle()
    assert len(stage.desk.runs) == 1


class Rejects(Middleware):
    """Middleware as anybody writes it, that rejects what it does not like, as Dramatiq's age limit does."""

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        message.fail()
        raise SkipMessage("too old")


def test_a_job_that_other_middleware_rejects_is_dead_and_no_crash(stage: Stage) -> None:
    stage.brokers[0].add_middleware(Rejects())
    record = stage.wait(stage.producer.send(Work()), JobState.DEAD)
    assert (record.crashes, stage.desk.runs) == (0, [])


class Stumbles(Middleware):
    """Middleware that stands before ours, and whose first call ends in an error that Dramatiq lets out of a hook."""

    calls = 0

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        self.calls += 1
        if self.calls == 1:
            raise MiddlewareError("a mistake of somebody else's")


def test_a_job_that_other_middleware_fails_to_let_in_is_not_lost(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.brokers[0].add_middleware(Stumbles(), before=Carrier)
    stage.wait(stage.producer.send(Work()), JobState.DONE)
    assert stage.desk.runs == [("job", 1)]


class Onlooker(Middleware):
    """Middleware as anybody writes it, with hooks that fail."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:
        self.seen.append("before")
        raise RuntimeError("a mistake of somebody else's")

    def after_process_message(
        self, broker: Broker, message: MessageProxy, *, result: Any = None, exception: BaseException | None = None
    ) -> None:
        current = CurrentMessage.get_current_message()
        self.seen.append(f"after {current.actor_name if current else '?'}")
        raise RuntimeError("a mistake of somebody else's")


def test_middleware_from_elsewhere_fits_in_and_its_mistakes_lose_nothing() -> None:
    onlooker = Onlooker()
    stage = Stage(foreign=[CurrentMessage(), onlooker])
    stage.start()
    try:
        receipt = stage.producer.send(Work())
        assert stage.wait(receipt, JobState.DONE).attempt == 1
        stage.idle()
    finally:
        stage.stop()
    assert onlooker.seen == ["before", "after work"]
    assert len(stage.desk.runs) == 1
