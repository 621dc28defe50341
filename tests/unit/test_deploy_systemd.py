"""The systemd unit in the documentation fits the service that it runs."""

import configparser
from pathlib import Path

import pytest

from email_service.settings import EmailSettings
from jobkit.settings import EXIT_MISCONFIGURED

PAGE = Path(__file__).resolve().parents[2] / "docs/how-to/production.md"


@pytest.fixture(scope="module")
def unit() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # its names have capitals
    parser.read_string(PAGE.read_text().split("```ini\n")[1].split("```")[0])
    return parser["Service"]


def test_the_unit_kills_no_job_that_may_still_run(unit: configparser.SectionProxy) -> None:
    assert unit["KillMode"] == "mixed"
    assert int(unit["TimeoutStopSec"]) >= EmailSettings.model_fields["stop_grace_seconds"].default


def test_the_unit_does_not_restart_what_is_misconfigured(unit: configparser.SectionProxy) -> None:
    assert unit["Restart"] == "on-failure"
    assert str(EXIT_MISCONFIGURED) in unit["RestartPreventExitStatus"].split()


def test_the_health_folder_of_the_unit_is_one_that_systemd_makes(unit: configparser.SectionProxy) -> None:
    assert unit["Environment"] == f"JOBKIT_HEALTH_FOLDER=/run/{unit['RuntimeDirectory']}"
