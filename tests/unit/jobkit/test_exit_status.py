"""What a restart would not help ends with the status that the platform leaves alone."""

import dramatiq.cli
import pytest

from jobkit.cli.exit_status import KILLED, NOT_IMPORTED, replaced_if_hopeless

VARIABLE = "JOBKIT_MISCONFIGURED_STATUS"


def status_after(error: BaseException) -> object:
    with pytest.raises(SystemExit) as caught, replaced_if_hopeless():
        raise error
    return caught.value.code


@pytest.mark.parametrize("error", [SystemExit(78), SystemExit(2)], ids=repr)
def test_a_hopeless_status_becomes_the_one_that_is_set(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "0")
    assert status_after(error) == 0


@pytest.mark.parametrize("value", ["", " ", "many", "-1", "256"])
def test_without_a_usable_value_the_status_stays(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, value)
    assert status_after(SystemExit(78)) == 78


@pytest.mark.parametrize("error", [SystemExit(0), SystemExit(1), SystemExit(137), SystemExit("text")], ids=repr)
def test_every_other_status_stays(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "0")
    assert status_after(error) == error.code  # type: ignore[attr-defined]  # a SystemExit


def test_what_ends_well_ends_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "3")
    with replaced_if_hopeless():
        pass


def test_the_statuses_that_are_dramatiqs_are_the_same_as_its_command_has() -> None:
    assert (NOT_IMPORTED, KILLED) == (dramatiq.cli.RET_IMPORT, dramatiq.cli.RET_KILLED)
