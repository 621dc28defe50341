"""`make setup` makes .venv with the Python that was asked for, and says what it does."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: An interpreter of another version: it answers for itself, copies itself into environments, and installs nothing.
FAKE = """#!/bin/sh
case $2 in *ensurepip*) [ -e {module} ] || exit 1 ;; esac
case $1 in
    -c) exec {python} -c 'import sys; code = sys.argv[1]; sys.version_info = {version}; exec(code)' "$2" ;;
    --version) echo 'Python {dotted}' ;;
    *) if [ "$2" = venv ]; then mkdir -p .venv/bin && cp "$0" .venv/bin/python; rm -f .venv/.ready; fi ;;
esac
"""


class Checkout:
    """A folder with the Makefile, `deploy/setup.sh` and Pythons of several versions."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "deploy").mkdir()
        shutil.copy(ROOT / "Makefile", folder)
        shutil.copy(ROOT / "deploy/setup.sh", folder / "deploy")
        (folder / "requirements.lock").write_text("one==1\ntwo==2\n")

        self.tools = folder / "tools"  # programs that take the place of the machine's own
        self.tools.mkdir()

    def python(self, *version: int, module: Path = Path("/")) -> str:
        """Make an interpreter; it has the module that makes environments once the file ``module`` exists."""
        dotted = ".".join(map(str, version))
        file = self.folder / f"python{dotted}"
        file.write_text(FAKE.format(python=sys.executable, version=version, dotted=dotted, module=module))
        file.chmod(0o755)
        return str(file)

    def tool(self, name: str, script: str) -> None:
        """Make a program; it writes down each call in ``calls``, then runs ``script``."""
        file = self.tools / name
        file.write_text(f'#!/bin/sh\necho "{name} $*" >> {self.folder}/calls\n{script}\n')
        file.chmod(0o755)

    def calls(self) -> list[str]:
        file = self.folder / "calls"
        return file.read_text().splitlines() if file.exists() else []

    def setup(self, python: str = "") -> list[str]:
        # The tests may run under make themselves, which hands its own flags down.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        environment.pop("MFLAGS", None)
        environment["PATH"] = f"{self.tools}{os.pathsep}{environment['PATH']}"
        done = subprocess.run(
            ["make", "setup", f"PYTHON={python}"],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        return (done.stdout + done.stderr).splitlines()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make on this machine")


def test_another_python_that_is_asked_for_replaces_the_one_of_the_environment(checkout: Checkout) -> None:
    assert checkout.setup(checkout.python(3, 11, 7))[-1] == "ready: .venv, Python 3.11.7"
    lines = checkout.setup(checkout.python(3, 12, 1))
    assert lines[0] == "Making .venv with Python 3.12.1: some seconds …"
    assert lines[1].startswith("Installing the 2 locked packages: ")
    assert lines[-1] == "ready: .venv, Python 3.12.1"


def test_the_same_python_or_none_changes_nothing(checkout: Checkout) -> None:
    checkout.setup(checkout.python(3, 11, 7))
    assert checkout.setup(checkout.python(3, 11, 7)) == ["ready: .venv, Python 3.11.7"]
    assert checkout.setup() == ["ready: .venv, Python 3.11.7"]


def test_a_changed_lock_file_is_an_update_and_is_called_one(checkout: Checkout) -> None:
    checkout.setup(checkout.python(3, 11, 7))
    (checkout.folder / "requirements.lock").write_text("one==2\n")
    assert checkout.setup()[0] == "Bringing the 1 locked packages up to date: seconds, if few have changed …"


@pytest.mark.parametrize("minor", [11, 12, 13, 14])
def test_each_supported_python_is_accepted(checkout: Checkout, minor: int) -> None:
    assert checkout.setup(checkout.python(3, minor, 0))[-1] == f"ready: .venv, Python 3.{minor}.0"


@pytest.mark.parametrize("version", [(3, 10, 1), (3, 16, 0)])
def test_a_python_out_of_range_is_refused_and_the_environment_stays(
    checkout: Checkout, version: tuple[int, ...]
) -> None:
    checkout.setup(checkout.python(3, 11, 7))
    refusal = checkout.setup(python := checkout.python(*version))[0]
    assert f"Python 3.11, 3.12, 3.13 or 3.14 is needed, and {python} is {'.'.join(map(str, version))}" in refusal
    assert "make setup PYTHON=" in refusal
    assert checkout.setup() == ["ready: .venv, Python 3.11.7"]


def test_python_3_15_is_refused_with_the_packages_that_have_no_build_for_it(checkout: Checkout) -> None:
    assert "onnxruntime and orjson have no build for Python 3.15 yet" in checkout.setup(checkout.python(3, 15, 0))[0]


def test_a_python_that_does_not_run_is_named(checkout: Checkout) -> None:
    assert "/nowhere/python does not run" in checkout.setup("/nowhere/python")[0]


def test_root_installs_the_package_that_makes_environments(checkout: Checkout, tmp_path: Path) -> None:
    module = tmp_path / "ensurepip"
    checkout.tool("id", "echo 0")
    checkout.tool("apt-get", f"case $* in *install*) touch {module} ;; esac")
    lines = checkout.setup(checkout.python(3, 13, 5, module=module))
    assert lines[0] == "Installing python3.13-venv with apt-get: some seconds …"
    assert lines[-1] == "ready: .venv, Python 3.13.5"


def test_another_user_gets_the_one_command_and_nothing_is_run(checkout: Checkout, tmp_path: Path) -> None:
    checkout.tool("id", "echo 1000")
    checkout.tool("apt-get", "exit 1")
    checkout.tool("sudo", "exit 0")
    lines = checkout.setup(checkout.python(3, 13, 5, module=tmp_path / "never"))
    assert lines[0].endswith("Run as root: apt-get update && apt-get install -y python3.13-venv")
    assert {call.split()[0] for call in checkout.calls()} == {"id"}
    assert not (checkout.folder / ".venv").exists()


def test_an_installation_that_fails_says_which_command_failed(checkout: Checkout, tmp_path: Path) -> None:
    checkout.tool("id", "echo 0")
    checkout.tool("apt-get", "case $* in *install*) exit 100 ;; esac")
    lines = checkout.setup(checkout.python(3, 13, 5, module=tmp_path / "never"))
    assert any(line.endswith("This failed: apt-get install -y python3.13-venv") for line in lines)


@pytest.mark.parametrize(("switch", "installs"), [("", True), ("0", True), ("1", False)])
@pytest.mark.parametrize("target", ["test", "chaos", "fuzz", "soak", "bench"])
def test_missing_servers_are_installed_once_before_the_tests_start(target: str, switch: str, installs: bool) -> None:
    command = ["make", "-n", target, f"SKIP_MISSING_SERVERS={switch}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    *before, _ = done.stdout.splitlines()
    assert any("local_stack install" in line for line in before) == (installs or target != "test")
