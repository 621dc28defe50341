"""``NAME_FILE`` names the file that holds the value of ``NAME``."""

import os
from pathlib import Path

import pytest
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from jobkit.errors import SettingsError
from jobkit.settings import PlatformSettings, ServiceSettings, load_platform

REDIS = "redis://:s3cret@redis:6379/0"


class LetterSettings(ServiceSettings):
    """One of its settings is named like the file of another."""

    model_config = SettingsConfigDict(env_prefix="LETTER_")

    logo: str = Field("none", description="The logo.")
    logo_file: str = Field("none", description="Where the logo is.")


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("JOBKIT_", "LETTER_", "OTEL_", "SENTRY_")):
            monkeypatch.delenv(name)


def refusal(monkeypatch: pytest.MonkeyPatch, file: Path, **variables: str) -> str:
    monkeypatch.setenv("JOBKIT_STORE_URL_FILE", str(file))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as refused:
        load_platform()
    said = str(refused.value)
    assert "s3cret" not in said
    assert "\n" not in said
    return said


@pytest.mark.parametrize("content", [REDIS, f"{REDIS}\n", f"\ufeff{REDIS}\r\n", f"\n {REDIS} \n"])
def test_a_setting_is_read_from_the_file_that_its_variable_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str
) -> None:
    file = tmp_path / "store"
    file.write_text(content, "utf-8")
    monkeypatch.setenv("JOBKIT_STORE_URL_FILE", str(file))
    monkeypatch.setenv("JOBKIT_STORE_URL", "")  # as compose writes what is not set
    assert load_platform().store_url == REDIS


def test_variables_with_names_of_other_tools_have_files_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "dsn"
    file.write_text("https://s3cret@sentry.example.org/1\n")
    monkeypatch.setenv("SENTRY_DSN_FILE", str(file))
    dsn = load_platform().sentry_dsn
    assert dsn is not None
    assert dsn.get_secret_value() == "https://s3cret@sentry.example.org/1"


def test_an_empty_variable_names_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBKIT_STORE_URL_FILE", " ")
    assert load_platform() == PlatformSettings()


def test_a_value_and_a_file_for_one_setting_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "store"
    file.write_text(REDIS)
    said = refusal(monkeypatch, file, JOBKIT_STORE_URL=REDIS)
    assert said.startswith("JOBKIT_STORE_URL: JOBKIT_STORE_URL_FILE is set as well")


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe", b"redis://" + b"x" * 70_000])
def test_a_file_without_a_usable_value_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "store"
    file.write_bytes(content)
    said = refusal(monkeypatch, file)
    assert said.startswith("JOBKIT_STORE_URL: the file ")
    assert str(file) in said


@pytest.mark.parametrize("name", ["", "missing", "no\\such"])
def test_a_file_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    said = refusal(monkeypatch, tmp_path / name)
    assert said.startswith("JOBKIT_STORE_URL: the file ")
    assert "cannot be read" in said


def test_what_a_file_holds_is_checked_like_any_other_value(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "store"
    file.write_text(f'"{REDIS}"')
    assert refusal(monkeypatch, file).startswith("JOBKIT_STORE_URL: it is in quotes")


def test_a_setting_whose_own_name_ends_like_that_is_no_file_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LETTER_LOGO_FILE", "/srv/logo.png")
    settings = LetterSettings.load()
    assert (settings.logo, settings.logo_file) == ("none", "/srv/logo.png")
