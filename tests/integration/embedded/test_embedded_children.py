"""A whole worker in this process: jobs that send jobs."""

import pytest
from embedded_stage import Desk, Stage, Step, Work

from jobkit.context import Context
from jobkit.errors import PermanentError, TransientError
from jobkit.receipt import Receipt
from jobkit.store.base import JobState


@pytest.mark.usefixtures("brief_deferrals")  # the second copy of a child may find the first one running
def test_a_run_that_is_repeated_sends_the_same_children(stage: Stage) -> None:
    sent: list[Receipt] = []
    failures = [TransientError("after the sends")]

    def do(_job: Work, context: Context[Desk]) -> None:
        sent.append(context.send(Step(name="one")))
        sent.append(context.send(Step(name="two"), child_key="two"))
        if failures:
            raise failures.pop()

    stage.desk.do = do
    stage.wait(stage.producer.send(Work()), JobState.DONE)
    stage.idle()
    assert sent[:2] == sent[2:]
    assert sorted(stage.desk.steps) == ["one", "two"]


@pytest.mark.usefixtures("brief_deferrals")
def test_a_child_that_has_died_does_not_run_again_when_its_parent_does(stage: Stage) -> None:
    sent: list[Receipt] = []

    def do(job: Work, context: Context[Desk]) -> None:
        if job.name == "child":
            raise PermanentError("no")
        sent.append(context.send(Work(name="child")))
        stage.wait(sent[-1], JobState.DEAD)
        if len(sent) == 1:
            raise TransientError("after the child's death")

    stage.desk.do = do
    stage.wait(stage.producer.send(Work(name="parent")), JobState.DONE)
    stage.idle()
    assert stage.desk.runs == [("parent", 1), ("child", 1), ("parent", 2)]
    assert len(stage.exchange.dead_letters("work")) == 1


def test_children_of_different_jobs_are_different_jobs(stage: Stage) -> None:
    stage.desk.do = lambda job, context: context.send(Step(name=job.name), child_key="same key").job_id
    for name in ("a", "b"):
        stage.wait(stage.producer.send(Work(name=name)), JobState.DONE)
    stage.idle()
    assert sorted(stage.desk.steps) == ["a", "b"]
