"""Figures in the documentation that follow from the code."""

import importlib
import re
from pathlib import Path

import pytest

from jobkit.errors import TransientError
from jobkit.retry import RetryPolicy, exponential

ROOT = Path(__file__).resolve().parents[2]
SERVICES = sorted(folder.name for folder in (ROOT / "services").iterdir() if (folder / "pyproject.toml").exists())
WORDS = {14: "fourteen", 16: "sixteen"}


def span(policy: RetryPolicy) -> str:
    """The time from the first to the last attempt, running times aside, as the pages give it."""
    waits = range(1, policy.attempts)
    shortest = sum(policy.delay(n, draw=lambda: 0.0).total_seconds() for n in waits)
    longest = policy.horizon.total_seconds()
    for name, unit, digits in (("hours", 3600, 1), ("minutes", 60, 0), ("seconds", 1, 0)):
        if longest > 4 * unit:
            return f"{shortest / unit:.{digits}f} to {longest / unit:.{digits}f} {name}"
    raise AssertionError("a policy of less than four seconds")


@pytest.mark.parametrize("service", SERVICES)
def test_the_page_of_a_service_gives_the_attempts_and_the_time_that_its_policies_take(service: str) -> None:
    page = (ROOT / f"services/{service}/README.md").read_text()
    actors = importlib.import_module(f"{service}_service.actors").service.actors.values()
    policies = [actor.retry for actor in actors if actor.retry.attempts > 1]
    assert policies
    for policy in policies:
        assert f"{policy.attempts} attempts" in page
        assert span(policy) in page


def test_the_page_of_retries_gives_the_time_that_its_policies_take() -> None:
    page = (ROOT / "docs/how-to/retries.md").read_text()
    patient = exponential(first=5, cap=3600, attempts=14, retry_on=TransientError)
    for policy in (exponential(), patient):
        assert f"{policy.attempts} attempts within {span(policy)}" in page


def test_the_number_of_faults_is_that_of_the_table() -> None:
    rows = [line.split(" | ") for line in (ROOT / "docs/reference/faults.md").read_text().splitlines()]
    ours, celerys = ({row[0] for row in rows if len(row) > 2 and row[1] == system} for system in ("jobkit", "celery"))
    for name in ("README.md", "CHANGELOG.md"):
        text = " ".join((ROOT / name).read_text().split())
        assert f"{WORDS[len(ours)]} faults, {WORDS[len(celerys)]} of them beside bare Dramatiq and Celery" in text


def test_the_page_of_messages_names_every_option_on_the_wire() -> None:
    page = (ROOT / "docs/reference/messages.md").read_text()
    sources = "\n".join(file.read_text() for file in (ROOT / "shared/src/jobkit").rglob("*.py"))
    declared = re.findall(r"^[A-Z_, ]*_OPTIONS?\b[^=\n]*= (\".*)$", sources, re.MULTILINE)
    names = {name for line in declared for name in re.findall(r'"(\w+)"', line)}
    assert {"contract_version", "attempts", "round", "schedule", "tick"} <= names
    assert [name for name in sorted(names) if f"`{name}`" not in page] == []
