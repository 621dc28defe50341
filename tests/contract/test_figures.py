"""Figures in the documentation that follow from the code."""

import importlib
import re
from pathlib import Path

import pytest
from mistakes import MISTAKES

from jobkit.broker import envelope
from jobkit.broker.topology import DELIVERY_LIMIT
from jobkit.errors import TransientError
from jobkit.leases import HEAD_START, RETRY_RENEWAL
from jobkit.middleware.idempotency import LONGEST_DEFERRAL
from jobkit.middleware.shutdown import STOP_MARGIN
from jobkit.middleware.sign_of_life import TOO_OLD
from jobkit.middleware.stuck_jobs import REPORT_AFTER
from jobkit.retry import RetryPolicy, exponential
from jobkit.settings import PlatformSettings

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


SECONDS = {"a day": 86_400, "an hour": 3_600, "half an hour": 1_800}


def test_a_default_that_a_page_gives_beside_a_setting_is_that_of_the_settings() -> None:
    given = []
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "services").glob("*/README.md")]:
        for name, text in re.findall(r"`JOBKIT_([A-Z_]+)`\s+\(([^)]+)\)", page.read_text()):
            default = PlatformSettings.model_fields[name.lower()].default
            first = text.split(",")[0]
            number = 1_048_576 if first == "1 MiB" else SECONDS.get(first) or int(first.removesuffix(" s"))
            given.append(name)
            assert number == default, (page.name, name, text)
    assert {"RECORD_TTL_SECONDS", "LEASE_SECONDS", "MAX_CRASHES", "STUCK_SECONDS", "ROLLOUT_SECONDS"} <= set(given)


LIMITS = {
    "docs/explanation/guarantees.md": [
        f"returned to its queue {DELIVERY_LIMIT} times becomes a dead letter",
        {60: "at the latest after a minute"}[int(LONGEST_DEFERRAL.total_seconds())],
        f"{REPORT_AFTER:.0f} s after the interrupt the worker logs",
        f"every {RETRY_RENEWAL} s",
        f"{HEAD_START} s after they have noticed its end",
        {0.5: "starts in the half second after the outage"}[RETRY_RENEWAL],
    ],
    "docs/how-to/production.md": [
        f"its file is older than {TOO_OLD:.0f} s",
        {5: "The stop limit is five seconds before the end"}[int(STOP_MARGIN.total_seconds())],
    ],
    "docs/reference/messages.md": [
        f"printable text of 1 to {envelope.MAX_ID_LENGTH} bytes",
        f"nests arrays and objects at most {envelope.MAX_DEPTH} deep",
    ],
    "docs/runbooks/stuck-job.md": [f"job has not ended {REPORT_AFTER:.0f} s after its interrupt"],
}


@pytest.mark.parametrize("page", LIMITS)
def test_a_page_gives_the_limits_of_the_code(page: str) -> None:
    text = " ".join((ROOT / page).read_text().split())
    assert [sentence for sentence in LIMITS[page] if sentence not in text] == []


def test_the_page_of_the_explorer_gives_its_number_of_mistakes() -> None:
    text = (ROOT / "docs/explanation/exploring.md").read_text()
    word = {24: "twenty-four", 25: "twenty-five", 26: "twenty-six", 27: "twenty-seven", 28: "twenty-eight"}
    assert word[len(MISTAKES)] + " mistakes in the path" in text
