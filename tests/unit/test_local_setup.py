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

    def python(self, *version: int) -> str:
        dotted = ".".join(map(str, version))
        file = self.folder / f"python{dotted}"
        file.write_text(FAKE.format(python=sys.executable, version=version, dotted=dotted))
        file.chmod(0o755)
        return str(file)

    def setup(self, python: str = "") -> list[str]:
        # The tests may run under make themselves, which hands its own flags down.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        environment.pop("MFLAGS", None)
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


def test_a_python_out_of_range_is_refused_and_the_environment_stays(checkout: Checkout) -> None:
    checkout.setup(checkout.python(3, 11, 7))
    assert "Python 3.11, 3.12 or 3.13 is needed" in checkout.setup(checkout.python(3, 10, 1))[0]
    assert checkout.setup() == ["ready: .venv, Python 3.11.7"]
