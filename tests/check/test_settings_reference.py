"""The settings reference has every variable of every service in `services/`, with its default and its reason."""

import importlib
import re

import pytest
from documentation import ROOT

from jobkit.settings import EnvironmentSettings, PlatformSettings

SERVICES = sorted(file.parent.name for file in ROOT.glob("services/*/pyproject.toml"))


def settings_classes() -> list[type[EnvironmentSettings]]:
    names = [(f"{name}_service.settings", f"{name.title()}Settings") for name in SERVICES]
    return [PlatformSettings, *(getattr(importlib.import_module(module), name) for module, name in names)]


def row(settings: type[EnvironmentSettings], field: str) -> str:
    """One line of the settings reference."""
    info = settings.model_fields[field]
    default = info.default
    if info.default_factory is not None:
        default = "see there"
    elif hasattr(default, "get_secret_value"):
        default = default.get_secret_value()
    shown = {None: "none", "": "none", (): "none"}.get(default, f"`{default}`") if default != "see there" else default
    description = str(info.description).replace("|", "\\|").replace("<", "\\<")
    return f"| `{settings.variable(field)}` | {shown} | {description} |"


@pytest.mark.parametrize("settings", settings_classes(), ids=lambda settings: settings.__name__)
def test_the_settings_reference_has_every_variable_with_its_default_and_reason(
    settings: type[EnvironmentSettings],
) -> None:
    page = (ROOT / "docs/reference/settings.md").read_text()
    missing = [line for field in settings.model_fields if (line := row(settings, field)) not in page.splitlines()]
    assert not missing, "docs/reference/settings.md should have these lines:\n" + "\n".join(missing)


def test_the_settings_reference_has_no_variable_that_is_not_there() -> None:
    page = (ROOT / "docs/reference/settings.md").read_text()
    known = {settings.variable(field) for settings in settings_classes() for field in settings.model_fields}
    assert set(re.findall(r"^\| `([A-Z_]+)` \|", page, re.MULTILINE)) == known
