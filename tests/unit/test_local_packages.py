"""Missing servers are installed where that is allowed, and asked for with one command where it is not."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from local_stack import packages
from local_stack.errors import MissingPackages

APT, DNF, _, BREW = packages.MANAGERS


class Machine:
    """A machine that has no server yet, and remembers what was run on it."""

    def __init__(self, *, sudo: bool = False, works: bool = True) -> None:
        self.commands: list[str] = []
        self.servers: set[packages.Service] = set()
        self.sudo = sudo
        self.works = works

    def run(self, command: Sequence[str]) -> int:
        self.commands.append(" ".join(command))
        if "sudo" in command and not self.sudo:
            return 1
        if "install" in command and self.works:
            self.servers |= {"redis", "rabbitmq", "postgres"}
        return 0 if self.works else 100

    def installed(self, service: packages.Service) -> Path | None:
        return Path("/usr/bin") / service if service in self.servers else None


def ensure(machine: Machine, *, root: bool, manager: packages.PackageManager = APT) -> None:
    packages.ensure(["rabbitmq", "redis"], installed=machine.installed, run=machine.run, root=root, manager=manager)


def test_nothing_is_run_where_nothing_is_missing() -> None:
    machine = Machine()
    machine.servers = {"rabbitmq", "redis"}
    ensure(machine, root=True)
    assert machine.commands == []


def test_root_installs_what_is_missing_without_starting_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(packages, "POLICY", tmp_path / "policy-rc.d")
    machine = Machine()
    ensure(machine, root=True)
    refresh, policy, install, clean = machine.commands
    assert refresh == "apt-get update -qq"
    assert "exit 101" in policy
    assert install.startswith("env DEBIAN_FRONTEND=noninteractive apt-get install -y")
    assert install.endswith("rabbitmq-server redis-server")
    assert clean == f"rm -f {tmp_path / 'policy-rc.d'}"


def test_a_policy_of_the_machine_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    policy = tmp_path / "policy-rc.d"
    policy.touch()
    monkeypatch.setattr(packages, "POLICY", policy)
    machine = Machine()
    ensure(machine, root=True)
    assert not any("policy" in command for command in machine.commands)


def test_without_permission_the_error_is_the_one_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    machine = Machine(sudo=False)
    expected = r"run: sudo apt-get update -qq && sudo apt-get install .* rabbitmq-server redis-server$"
    with pytest.raises(MissingPackages, match=expected):
        ensure(machine, root=False)
    assert machine.commands == ["sudo -n true"]


def test_what_takes_minutes_is_announced_where_it_is_done_and_not_where_it_is_refused() -> None:
    said: list[str] = []
    machine = Machine()
    with pytest.raises(MissingPackages, match=r"^redis is not installed; run: "):
        packages.ensure(
            ["redis"], installed=machine.installed, run=machine.run, root=False, manager=DNF, say=said.append
        )
    assert said == []
    packages.ensure(["redis"], installed=machine.installed, run=machine.run, root=True, manager=DNF, say=said.append)
    assert said == ["installing redis with dnf; that can take minutes"]


def test_a_sudo_without_password_is_used() -> None:
    machine = Machine(sudo=True)
    ensure(machine, root=False, manager=DNF)
    assert machine.commands == ["sudo -n true", "sudo -n dnf install -y rabbitmq-server redis"]


def test_homebrew_is_never_run_as_root() -> None:
    machine = Machine()
    with pytest.raises(MissingPackages, match=r"run: brew install rabbitmq redis$"):
        ensure(machine, root=True, manager=BREW)
    assert machine.commands == []
    ensure(machine, root=False, manager=BREW)
    assert machine.commands == ["brew install rabbitmq redis"]


def test_an_installation_that_fails_asks_a_person() -> None:
    with pytest.raises(MissingPackages, match=r"^rabbitmq-server and redis are not installed; run: "):
        ensure(Machine(works=False), root=True, manager=DNF)


def test_an_unknown_system_is_told_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "MANAGERS", ())
    with pytest.raises(
        MissingPackages, match=r"^Redis is not installed, and none of .* install by hand, or install Docker"
    ):
        packages.ensure(["redis"], installed=Machine().installed, run=Machine().run, root=True)
