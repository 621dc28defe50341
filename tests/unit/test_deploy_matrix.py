"""`make matrix` refuses what it cannot do with a clear line, and takes a skipped test for what it is: a fault."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: Tools of a machine that can make machines. `unshare` is what runs a command inside one.
TOOLS = {
    "uname": "echo Linux",
    "id": "echo 0",
    "debootstrap": "exit 0",
    "chroot": "exit 0",
    "git": "exit 0",
    "cp": "exit 0",
    "install": "exit 0",
    "unshare": 'case $2 in debootstrap) shift; exec "$@" ;; esac; cat "$SAID"; exit "$STATUS"',
}
PASSED = "tested on Python 3.14.8, RabbitMQ 4.3.6, Redis 8.0.6, PostgreSQL 18.6\n2300 passed in 600.00s\n"
CONTAINERS = "SKIPPED [9] tests/stack/test_stack.py:60: builds and runs all containers\n"
BROKER = "SKIPPED [105] tests/conftest.py:35: rabbitmq-server is not installed\n"


class Machine:
    """A machine whose tools are faked, one by one."""

    def __init__(self, folder: Path) -> None:
        self.tools, self.machines = folder / "tools", folder / "machines"
        self.tools.mkdir()
        for name, script in TOOLS.items():
            self.tool(name, script)

    def tool(self, name: str, script: str) -> None:
        file = self.tools / name
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)

    def matrix(self, said: str = PASSED, status: int = 0, releases: str = "bookworm forky") -> tuple[int, str]:
        (self.tools / "said").write_text(said)
        done = subprocess.run(
            [str(ROOT / "deploy/matrix.sh")],
            env={
                "PATH": f"{self.tools}{os.pathsep}{os.environ['PATH']}",
                "MACHINES": str(self.machines),
                "RELEASES": releases,
                "SAID": str(self.tools / "said"),
                "STATUS": str(status),
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_both_commands_on_every_release_are_reported_with_their_versions(machine: Machine) -> None:
    status, said = machine.matrix(CONTAINERS + PASSED)
    assert status == 0
    lines = [line for line in said.splitlines() if line.startswith(("bookworm", "forky"))]
    assert lines == [
        "bookworm  demo  passed",
        "bookworm  test  passed",
        "forky     demo  passed",
        "forky     test  passed",
    ]
    assert said.count("RabbitMQ 4.3.6") == 4
    assert not (machine.machines / "forky").exists()


def test_a_command_that_fails_fails_the_matrix_and_its_machine_stays(machine: Machine) -> None:
    status, said = machine.matrix("1 failed, 2299 passed in 600.00s\n", status=2, releases="trixie")
    assert status == 1
    assert "trixie    test  FAILED" in said
    assert (machine.machines / "trixie").exists()


def test_a_skipped_test_fails_the_matrix_though_the_command_ended_well(machine: Machine) -> None:
    status, said = machine.matrix(BROKER + CONTAINERS + PASSED)
    assert status == 1
    assert "FAILED: skipped 1 kinds of tests" in said


def test_a_machine_that_cannot_be_made_fails_the_matrix_and_the_others_run(machine: Machine) -> None:
    machine.tool("debootstrap", "case $* in *bookworm*) exit 1 ;; esac")
    status, said = machine.matrix()
    assert status == 1
    assert "debootstrap failed: see " in said
    assert "forky     test  passed" in said


@pytest.mark.parametrize(
    ("tool", "script", "text"),
    [
        ("uname", "echo Darwin", "run it on Linux"),
        ("id", "echo 1000", "needs root"),
    ],
)
def test_a_machine_that_cannot_make_machines_is_told_why(machine: Machine, tool: str, script: str, text: str) -> None:
    machine.tool(tool, script)
    status, said = machine.matrix()
    assert status == 1
    assert text in said
    assert len(said.splitlines()) == 1
