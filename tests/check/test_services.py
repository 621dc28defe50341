"""What `make check` asks of each service in `services/`: that nothing leaves it out, and that it can start.

A service that is missing from a list passes the list's own check, so these tests go by the folders.
"""

import os
import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # ships no types

ROOT = Path(__file__).resolve().parents[2]
SERVICES = sorted(file.parent.name for file in ROOT.glob("services/*/pyproject.toml"))
PACKAGES = {f"{name}_service" for name in SERVICES}
COMPOSE: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())["services"]
#: The service of each container that runs workers.
WORKERS = {
    container: service["image"].removesuffix("-service")
    for container, service in COMPOSE.items()
    if service["image"].endswith("-service")
}
SOURCES = [ROOT / "shared/src", *(ROOT / f"services/{name}/src" for name in SERVICES)]

# Builds a service's worker from the settings in the environment and asks what a worker asks before its first job.
_ASK = """
import importlib, sys
from types import SimpleNamespace

from jobkit.middleware.preflight import Preflight
from jobkit.settings import ServiceSettings, load_platform

name = sys.argv[1]
settings = [
    value for value in vars(importlib.import_module(f"{name}_service.settings")).values()
    if isinstance(value, type) and issubclass(value, ServiceSettings) and value is not ServiceSettings
]
broker = importlib.import_module(f"{name}_service.actors").service.build(load_platform(), settings[0].load())
[preflight] = [one for one in broker.middleware if isinstance(one, Preflight)]
preflight.before_worker_boot(broker, SimpleNamespace(consumer_whitelist=None))
"""


def start(name: str, **variables: str) -> str:
    """What a worker of the service says that cannot start; nothing if it can."""
    ours = ("JOBKIT_", "OTEL_", "SENTRY_", *(f"{service.upper()}_" for service in SERVICES))
    kept = {variable: value for variable, value in os.environ.items() if not variable.startswith(ours)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _ASK, name],
        env={**kept, "PYTHONPATH": os.pathsep.join(map(str, SOURCES)), **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


def layers() -> ConfigParser:
    parser = ConfigParser()
    parser.read(ROOT / ".importlinter")
    return parser


def words(value: str) -> set[str]:
    return set(re.findall(r"\w+", value))


@pytest.mark.parametrize("name", SERVICES)
def test_a_worker_starts_with_the_default_settings(name: str) -> None:
    assert start(name) == ""


@pytest.mark.parametrize("container", WORKERS)
def test_a_worker_starts_with_the_settings_of_its_container(container: str, tmp_path: Path) -> None:
    lines = (ROOT / ".env").read_text().splitlines()
    tracked = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    told = {
        name: re.sub(r"\$\{(\w+)[^}]*\}", lambda match: tracked[match[1]], str(value))
        for name, value in COMPOSE[container]["environment"].items()
    }
    told = {name: value.replace("file:///data", tmp_path.as_uri()) for name, value in told.items()}
    assert start(WORKERS[container], **told) == ""


def test_a_time_limit_that_does_not_fit_the_stop_grace_is_found() -> None:
    said = start(SERVICES[0], **{f"{SERVICES[0].upper()}_STOP_GRACE_SECONDS": "6"})
    assert f"{SERVICES[0].upper()}_STOP_GRACE_SECONDS: 6 s is too short for " in said


def test_the_import_layers_have_every_service() -> None:
    contracts = layers()
    assert words(contracts["importlinter"]["root_packages"]) == {"jobkit", "local_stack", *PACKAGES}
    side_by_side = contracts["importlinter:contract:packages"]["layers"].strip().splitlines()[0]
    assert words(side_by_side) == PACKAGES
    assert words(contracts["importlinter:contract:services"]["containers"]) == PACKAGES


def test_every_service_has_processes_and_containers() -> None:
    commands = (ROOT / "deploy/Procfile").read_text()
    assert set(re.findall(r"jobkit worker (\w+)", commands)) == set(SERVICES)
    assert set(WORKERS.values()) == set(SERVICES)
