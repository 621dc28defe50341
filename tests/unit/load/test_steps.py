"""A benchmark keeps to its time, and says so when it measures less."""

import io

from rich.console import Console
from rich.progress import Progress
from steps import Steps


class Clock:
    """Moves only when told."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def rounds(seconds: list[float], *, budget: float) -> tuple[list[int], str]:
    """The rounds that ran, each of which takes some seconds, and what was printed."""
    said, clock = io.StringIO(), Clock()
    with Progress(console=Console(file=said), disable=True) as progress:
        steps = Steps(progress, len(seconds), budget, clock=clock)
        ran = []
        for number in steps.rounds("systems", len(seconds)):
            ran.append(number)
            clock.now += seconds[number]
    return ran, said.getvalue()


def test_all_rounds_run_if_they_fit() -> None:
    assert rounds([100, 120, 110], budget=340) == ([0, 1, 2], "")


def test_a_round_that_would_not_end_in_time_is_left_out() -> None:
    ran, said = rounds([100, 120, 110], budget=339)
    assert ran == [0, 1]
    assert said == "systems: 2 of 3 rounds fit into the time\n"


def test_the_first_round_runs_in_any_case() -> None:
    assert rounds([900, 900], budget=100)[0] == [0]
