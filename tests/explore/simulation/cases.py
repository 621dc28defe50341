"""What is sent, and what the runs of the jobs do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from jobkit.store.base import JobState


@dataclass(frozen=True)
class Case:
    """What is sent, and what its runs do.

    Attributes:
        sends: Names of jobs, in the order in which their messages arrive; one that stands there twice arrives twice.
        scripts: What the runs of a job do, one after the other; the last one is repeated. A run is a list of steps:
            ``ok``, ``fail``, ``never`` (a permanent error), ``snooze``, ``kill``, ``send NAME``, ``work`` (for longer
            than a lease), ``pause`` (for longer than a claim waits).
        ends: How a job has to end, unless it is done: the states that are right too.
        sends_again: How many dead letters are sent again.
        processes: How many.
        threads: In each of them.
    """

    sends: Sequence[str]
    scripts: Mapping[str, Sequence[str]]
    ends: Mapping[str, Sequence[JobState]] = field(default_factory=dict)
    processes: int = 2
    threads: int = 2
    sends_again: int = 0

    def script(self, job: str, run: int) -> list[str]:
        runs = self.scripts[job]
        return runs[min(run, len(runs) - 1)].split(", ")


CASES: Final = {
    "one": Case(["a"], {"a": ["ok"]}),
    "duplicate": Case(["a", "a"], {"a": ["ok"]}),
    "long": Case(["a", "a"], {"a": ["work, ok"]}),
    "retried": Case(["a", "a"], {"a": ["fail", "work, ok"]}),
    "exhausted": Case(["a"], {"a": ["fail"]}, {"a": [JobState.DEAD]}),
    "permanent": Case(["a", "a"], {"a": ["never"]}, {"a": [JobState.DEAD]}),
    "snoozed": Case(["a"], {"a": ["snooze", "ok"]}),
    "parent": Case(["a"], {"a": ["send b, ok"], "b": ["ok"]}),
    "parent that is repeated": Case(["a"], {"a": ["send b, work, fail", "send b, ok"], "b": ["work, ok"]}),
    "poison": Case(["a", "b"], {"a": ["kill"], "b": ["ok"]}, {"a": [JobState.DEAD]}),
    "busy": Case(["a", "b"], {"a": ["pause, ok"], "b": ["work, ok"]}, processes=1, threads=1),
    "three": Case(["a", "b", "c", "a"], {"a": ["fail", "ok"], "b": ["ok"], "c": ["snooze", "ok"]}),
    "sent again": Case(["a"], {"a": ["never", "work, ok"]}, sends_again=1),
    "sent again, and dies again": Case(["a"], {"a": ["never"]}, {"a": [JobState.DEAD]}, sends_again=2),
}
