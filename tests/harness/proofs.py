"""The results of the tests that are marked ``prove``, as a page of the documentation."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest

_PAGE = """# Proofs

Written by `make prove`; do not edit. Each row is a test. `make test` runs it in a small size, and `make prove` in the
size shown here. Times differ from machine to machine.

{table}
"""


@dataclass(frozen=True)
class Row:
    """One test.

    Attributes:
        title: What it proves.
        case: Its parameters, if it has any.
        size: How large it ran.
        result: ``passed``, ``failed`` or ``skipped``.
        seconds: How long it took.
    """

    title: str
    case: str
    size: str
    result: str
    seconds: float


class Proofs:
    """A pytest plugin that notes the result of each test with the mark ``prove(title, size)``."""

    def __init__(self) -> None:
        self._reports: dict[str, list[pytest.TestReport]] = {}
        self._marks: dict[str, tuple[str, str]] = {}

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Remember what the test proves."""
        mark = item.get_closest_marker("prove")
        if mark is not None:
            self._marks[item.nodeid] = (str(mark.args[0]), str(mark.kwargs["size"]))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note how its set-up, call and teardown ended."""
        self._reports.setdefault(report.nodeid, []).append(report)

    def rows(self) -> Iterator[Row]:
        """Return the results, in the order in which the tests ran."""
        for node, (title, size) in self._marks.items():
            reports = self._reports[node]
            outcomes = {report.outcome for report in reports}
            result = next(outcome for outcome in ("failed", "skipped", "passed") if outcome in outcomes)
            case = re.search(r"\[(.+)\]$", node)
            yield Row(title, case[1] if case else "", size, result, sum(report.duration for report in reports))


def page(rows: Sequence[Row]) -> str:
    """Return the page ``docs/reference/proofs.md``."""
    lines = ["| proof | case | size | result | seconds |", "|---|---|---|---|---:|"]
    lines += [f"| {row.title} | {row.case} | {row.size} | {row.result} | {row.seconds:.0f} |" for row in rows]
    return _PAGE.format(table="\n".join(lines))
