"""Who knows one service knows all: the same files with the same roles, and one word that names everything."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SERVICES = sorted(file.parent.name for file in ROOT.glob("services/*/pyproject.toml"))
SOURCES = [ROOT / "shared/src", *(ROOT / "services" / name / "src" for name in SERVICES)]

#: Any: what one service says of itself, as `_DESCRIBE` writes it.
Description = dict[str, Any]

# Runs in a fresh interpreter. What the service's own modules do while they are imported is written down; what the
# libraries do that they import is not theirs.
_DESCRIBE = """
import importlib, inspect, json, os, pkgutil, sys, threading
name, root = sys.argv[1], sys.argv[2]
touched = []

def ours(frame):
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith("<frozen importlib") or "site-packages" in file:
            return ""
        if file.startswith(root):
            return file
        frame = frame.f_back
    return ""

def watch(event, arguments):
    if event in {"socket.connect", "socket.bind", "socket.getaddrinfo"}:
        touched.append(event)
    elif event in {"open", "os.listdir", "os.mkdir", "os.remove", "os.rename", "subprocess.Popen"}:
        if ours(sys._getframe(1)):
            touched.append(f"{event} {arguments[0]!r} in {ours(sys._getframe(1))}")

def read(environment, variable, original=os._Environ.__getitem__):
    if ours(sys._getframe(1)):
        touched.append(f"variable {variable} in {ours(sys._getframe(1))}")
    return original(environment, variable)

os._Environ.__getitem__ = read
sys.addaudithook(watch)
package = importlib.import_module(f"{name}_service")
found = [m.name for m in pkgutil.walk_packages(package.__path__, f"{name}_service.")]
modules = {n: importlib.import_module(n) for n in found}
touched += [f"thread {t.name}" for t in threading.enumerate() if t is not threading.main_thread()]
contracts = importlib.import_module(f"jobkit.contracts.{name}")
watched, touched = touched, []

from datetime import UTC, datetime
from jobkit.contracts.job import Job
from jobkit.settings import ServiceSettings
service = modules[f"{name}_service.actors"].service
settings = [
    v for v in vars(modules[f"{name}_service.settings"]).values()
    if isinstance(v, type) and issubclass(v, ServiceSettings) and v is not ServiceSettings
]
json.dump({
    "touched": watched,
    "name": service.name,
    "doc": package.__doc__,
    "contracts": {
        v.actor: v.queue for v in vars(contracts).values()
        if isinstance(v, type) and issubclass(v, Job) and v.queue and v.__module__ == contracts.__name__
    },
    "actors": {actor: d.function.__name__ for actor, d in service.actors.items()},
    "periodic": {
        d.contract.__name__: d.periodic.next_after(datetime.now(UTC)).isoformat()
        for d in service.actors.values() if d.periodic
    },
    "handlers": [
        n for n, v in vars(modules[f"{name}_service.handlers"]).items()
        if inspect.isfunction(v) and v.__module__ == f"{name}_service.handlers"
    ],
    "settings": [s.__name__ for s in settings],
    "prefix": settings[0].model_config["env_prefix"],
    "own": [settings[0].variable(f) for f in settings[0].model_fields if f in settings[0].__annotations__],
    "undescribed": [f for f, field in settings[0].model_fields.items() if not field.description],
}, sys.stdout)
"""


def _python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JOBKIT_", "OTEL_", "SENTRY_"))}
    path = os.pathsep.join(map(str, SOURCES))
    return subprocess.run(
        [sys.executable, *arguments],
        env={**kept, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@cache
def describe(name: str) -> Description:
    done = _python("-W", "ignore", "-c", _DESCRIBE, name, str(ROOT))
    assert done.returncode == 0, done.stderr
    description: Description = json.loads(done.stdout)
    return description


def package(name: str) -> Path:
    return ROOT / "services" / name / "src" / f"{name}_service"


def imports(file: Path) -> set[str]:
    """The modules that a file imports, as far as their names tell: ``from a import b`` gives ``a`` and ``a.b``."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: write imports from the package's name on"
            found.add(str(node.module))
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def calls(file: Path) -> set[str]:
    """The names of what a file calls: ``set_broker``, ``service.build``."""
    return {ast.unparse(node.func) for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)}


@pytest.mark.parametrize("name", SERVICES)
@pytest.mark.parametrize("file", ["README.md", "pyproject.toml", "requirements.lock", "Dockerfile"])
def test_a_service_has_the_files_of_every_service(name: str, file: str) -> None:
    assert (ROOT / "services" / name / file).is_file()


@pytest.mark.parametrize("name", SERVICES)
@pytest.mark.parametrize("role", ["__init__", "settings", "errors", "handlers", "adapters", "actors", "main"])
def test_a_package_has_the_modules_of_every_package(name: str, role: str) -> None:
    module, folder = package(name) / f"{role}.py", package(name) / role / "__init__.py"
    assert module.is_file() or (role == "adapters" and folder.is_file())


@pytest.mark.parametrize("name", SERVICES)
def test_a_file_is_named_after_its_noun(name: str) -> None:
    stems = {file.stem for file in package(name).rglob("*.py")}
    assert not stems & {"utils", "helpers", "common", "misc", "base", "manager"}


@pytest.mark.parametrize("name", SERVICES)
def test_importing_a_service_touches_nothing(name: str) -> None:
    assert describe(name)["touched"] == []


@pytest.mark.parametrize("name", SERVICES)
def test_one_word_names_everything(name: str) -> None:
    description = describe(name)
    assert description["name"] == name
    assert description["settings"] == [f"{name.title()}Settings"]
    assert description["prefix"] == f"{name.upper()}_"
    assert {queue.partition(".")[0] for queue in description["contracts"].values()} == {name}
    project = tomllib.loads((ROOT / "services" / name / "pyproject.toml").read_text())["project"]
    assert project["name"] == f"{name}-service"
    assert list(ROOT.glob(f"tests/unit/services/test_{name}_*.py"))


@pytest.mark.parametrize("name", SERVICES)
def test_each_contract_has_an_actor_and_a_handler_of_its_name(name: str) -> None:
    description = describe(name)
    assert description["actors"] == {actor: actor for actor in description["contracts"]}
    assert set(description["contracts"]) <= set(description["handlers"])


@pytest.mark.parametrize("name", SERVICES)
def test_every_setting_is_described_and_in_the_readme(name: str) -> None:
    description = describe(name)
    readme = (ROOT / "services" / name / "README.md").read_text()
    assert description["undescribed"] == []
    assert [variable for variable in description["own"] if variable not in readme] == []
    assert len(readme.splitlines()) <= 180


@pytest.mark.parametrize("name", SERVICES)
def test_handlers_and_adapters_know_no_queue(name: str) -> None:
    folder = package(name)
    files = [folder / "handlers.py", *folder.glob("adapters*"), *folder.glob("adapters/*.py")]
    ours = ("context", "service", "broker", "middleware", "producer", "store", "assembly", "runner")
    forbidden = {"dramatiq", "pika", "redis", *(f"jobkit.{module}" for module in ours)}
    for file in (file for file in files if file.is_file()):
        assert not imports(file) & forbidden, file


@pytest.mark.parametrize("name", SERVICES)
def test_only_actors_declares_and_only_main_builds(name: str) -> None:
    for file in package(name).rglob("*.py"):
        called = calls(file)
        assert ("service.actor" in called and "Service" in called) == (file.stem == "actors"), file
        assert bool({"service.build", "set_broker"} & called) == (file.stem == "main"), file
        assert bool({"load_platform"} & called) == (file.stem == "main"), file


def test_a_service_has_a_periodic_job_so_that_the_rules_are_tried_on_one() -> None:
    assert [name for name in SERVICES if describe(name)["periodic"]]


@pytest.mark.parametrize("name", SERVICES)
def test_each_periodic_job_has_a_next_tick_and_is_in_the_readme(name: str) -> None:
    readme = (ROOT / "services" / name / "README.md").read_text()
    for contract, tick in describe(name)["periodic"].items():
        assert datetime.fromisoformat(tick) > datetime.now(UTC)
        assert f"`{contract}`" in readme


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_imports_another(name: str) -> None:
    others = {f"{other}_service" for other in SERVICES} - {f"{name}_service"}
    for file in package(name).rglob("*.py"):
        assert not {module.partition(".")[0] for module in imports(file)} & others, file


@pytest.mark.parametrize("name", SERVICES)
def test_a_wrong_setting_ends_the_worker_with_one_line_that_names_it(name: str) -> None:
    code = f"from {name}_service.main import broker; broker()"
    done = _python("-W", "ignore", "-c", code, **{f"{name.upper()}_PROCESSES": "many"})
    assert done.returncode == 78
    assert done.stderr.startswith(f"{name.upper()}_PROCESSES: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", SERVICES)
def test_the_workspace_lists_the_service(name: str) -> None:
    workspace = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert f"{name}-service" in workspace["project"]["dependencies"]
    assert workspace["tool"]["uv"]["sources"][f"{name}-service"] == {"path": f"services/{name}"}
    assert f"services/{name}/src" in workspace["tool"]["mypy"]["mypy_path"]
    assert {f"services/{name}/src", "services/*/src"} & set(workspace["tool"]["mypy"]["files"])
    assert f"    {name}_service\n" in (ROOT / ".importlinter").read_text()
    assert f"jobkit worker {name}" in (ROOT / "deploy/Procfile").read_text()
    assert re.search(rf"^  {name}:$", (ROOT / "deploy/compose.yaml").read_text(), re.MULTILINE)
