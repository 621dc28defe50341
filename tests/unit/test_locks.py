"""The lock files hold for every supported Python and system, and the tests run on what they name."""

import re
import sys
import tomllib
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LOCKS = sorted([*ROOT.glob("requirements.lock"), *ROOT.glob("services/*/*.lock"), *ROOT.glob("deploy/**/*.lock")])
PROJECTS = sorted([ROOT / "pyproject.toml", *ROOT.glob("*/pyproject.toml"), *ROOT.glob("*/*/pyproject.toml")])
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
SYSTEMS = ("linux", "darwin")


def pins(lock: Path) -> list[Requirement]:
    return [
        Requirement(line.removesuffix(" \\")) for line in re.findall(r"^[a-z].*==.*$", lock.read_text(), re.MULTILINE)
    ]


def installed_on(lock: Path, python: str, system: str = sys.platform) -> dict[NormalizedName, list[str]]:
    """The versions that an installation takes of each package."""
    environment = {**default_environment(), "python_version": python, "python_full_version": f"{python}.9"}
    environment["sys_platform"] = system
    chosen: dict[NormalizedName, list[str]] = defaultdict(list)
    for pin in pins(lock):
        if pin.marker is None or pin.marker.evaluate({key: str(value) for key, value in environment.items()}):
            chosen[canonicalize_name(pin.name)].append(str(pin.specifier).removeprefix("=="))
    return chosen


def test_every_package_and_the_readmes_fifth_service_support_the_same_pythons() -> None:
    ranges = {file: tomllib.loads(file.read_text())["project"]["requires-python"] for file in PROJECTS}
    shown = re.findall(r'^requires-python = "(.*)"$', (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(ranges) == 3 + len(list(ROOT.glob("services/*/pyproject.toml")))
    assert {*ranges.values(), *shown} == {">=3.11,<3.15"}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda file: str(file.relative_to(ROOT)))
@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("python", PYTHONS)
def test_a_lock_pins_each_package_once_on_each_python(lock: Path, system: str, python: str) -> None:
    chosen = installed_on(lock, python, system)
    assert {name: versions for name, versions in chosen.items() if len(versions) != 1} == {}


@pytest.mark.parametrize("python", PYTHONS)
def test_packages_with_two_pins_have_one_for_each_python(python: str) -> None:
    lock = ROOT / "requirements.lock"
    names = [canonicalize_name(pin.name) for pin in pins(lock)]
    twice = {name for name in names if names.count(name) > 1}
    assert {"numpy", "scipy"} <= twice
    assert twice <= installed_on(lock, python).keys()


def test_the_tests_run_on_the_packages_that_the_lock_names_for_this_python() -> None:
    locked = installed_on(ROOT / "requirements.lock", ".".join(map(str, sys.version_info[:2])))
    assert {name: version(name) for name in locked} == {name: versions[0] for name, versions in locked.items()}


def test_the_images_run_a_supported_python() -> None:
    files = [*ROOT.glob("services/*/Dockerfile"), *ROOT.glob("deploy/*/Dockerfile")]
    assert files
    for file in files:
        bases = set(re.findall(r"^FROM python:(\d+\.\d+)-slim", file.read_text(), re.MULTILINE))
        assert len(bases) == 1, file
        assert bases <= set(PYTHONS), file
