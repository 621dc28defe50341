"""Missing servers are installed as root, and asked for with one command otherwise."""

import threading
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest

from local_stack import packages, servers
from local_stack.errors import MissingPackages
from local_stack.packages import APK, APT, BREW, DNF


class Machine:
    """A machine that has no server yet, and remembers what was run on it."""

    def __init__(self, *, works: bool = True) -> None:
        self.commands: list[str] = []
        self.servers: set[servers.Service] = set()
        self.works = works

    def run(self, command: Sequence[str]) -> int:
        self.commands.append(" ".join(command))
        if self.works and ({"install", "add"} & set(command)):
            self.servers |= {"redis", "rabbitmq", "postgres"}
        return 0 if self.works else 100

    def installed(self, service: servers.Service) -> Path | None:
        return Path("/usr/bin") / service if service in self.servers else None


def ensure(machine: Machine, *, root: bool, manager: packages.PackageManager = APT) -> None:
    packages.ensure(["rabbitmq", "redis"], installed=machine.installed, run=machine.run, root=root, manager=manager)


@pytest.fixture(autouse=True)
def policy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where this machine's policy would be."""
    monkeypatch.setattr(packages, "POLICY", tmp_path / "policy-rc.d")
    return tmp_path / "policy-rc.d"


def test_nothing_is_run_where_nothing_is_missing() -> None:
    machine = Machine()
    machine.servers = {"rabbitmq", "redis"}
    ensure(machine, root=False)
    assert machine.commands == []


def test_root_installs_what_is_missing_without_starting_it(policy: Path) -> None:
    class Watched(Machine):
        def run(self, command: Sequence[str]) -> int:
            if "install" in command:
                assert "exit 101" in policy.read_text()
                assert policy.stat().st_mode & 0o111
            return super().run(command)

    machine = Watched()
    ensure(machine, root=True)
    refresh, install = machine.commands
    assert refresh == "apt-get update -qq"
    assert install.startswith("env DEBIAN_FRONTEND=noninteractive apt-get install -y")
    assert install.endswith("rabbitmq-server redis-server")
    assert not policy.exists()


def test_a_policy_of_the_machine_stays(policy: Path) -> None:
    policy.write_text("the machine's own")
    ensure(Machine(), root=True)
    assert policy.read_text() == "the machine's own"


@pytest.mark.parametrize(
    ("manager", "command"),
    [
        (APT, r"apt-get update -qq && apt-get install .* rabbitmq-server redis-server"),
        (DNF, "dnf install -y rabbitmq-server redis"),
        (APK, "apk add rabbitmq-server redis"),
    ],
    ids=lambda value: value.program if isinstance(value, packages.PackageManager) else "",
)
def test_another_user_gets_the_one_command_and_nothing_is_run(manager: packages.PackageManager, command: str) -> None:
    machine = Machine()
    with pytest.raises(MissingPackages, match=rf"; run as root: {command}$") as caught:
        ensure(machine, root=False, manager=manager)
    assert machine.commands == []
    assert "sudo" not in str(caught.value)


def test_what_takes_minutes_is_announced_where_it_is_done_and_not_where_it_is_refused() -> None:
    said: list[str] = []
    machine = Machine()
    with pytest.raises(MissingPackages, match=r"^redis is not installed; run as root: "):
        packages.ensure(
            ["redis"], installed=machine.installed, run=machine.run, root=False, manager=DNF, say=said.append
        )
    assert said == []
    packages.ensure(["redis"], installed=machine.installed, run=machine.run, root=True, manager=DNF, say=said.append)
    assert said == ["installing redis with dnf; that can take minutes"]


def test_processes_that_need_servers_at_the_same_time_install_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "apt-get"
    program.touch()
    monkeypatch.setattr("shutil.which", lambda _: str(program))
    second_asks = threading.Event()

    class Slow(Machine):
        def run(self, command: Sequence[str]) -> int:
            assert second_asks.wait(10)
            return super().run(command)

        def installed(self, service: servers.Service) -> Path | None:
            if threading.current_thread() is second:
                second_asks.set()
            return super().installed(service)

    machine = Slow()
    first = threading.Thread(target=lambda: ensure(machine, root=True))
    second = threading.Thread(target=lambda: ensure(machine, root=True))
    for thread in (first, second):
        thread.start()
    for thread in (first, second):
        thread.join(20)
        assert not thread.is_alive()
    assert [command.split()[0] for command in machine.commands] == ["apt-get", "env"]


def test_an_installation_by_another_process_that_never_ends_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "apt-get").touch()
    monkeypatch.setattr("shutil.which", lambda _: str(tmp_path / "apt-get"))
    monkeypatch.setattr(packages, "INSTALL_SECONDS", 0)
    with packages._one_at_a_time(APT), pytest.raises(MissingPackages, match="another process has been installing"):
        ensure(Machine(), root=True)


def test_homebrew_is_never_run_as_root() -> None:
    machine = Machine()
    with pytest.raises(MissingPackages, match=r"run: brew install rabbitmq redis$"):
        ensure(machine, root=True, manager=BREW)
    assert machine.commands == []
    ensure(machine, root=False, manager=BREW)
    assert machine.commands == ["brew install rabbitmq redis"]


def test_an_installation_that_fails_asks_a_person() -> None:
    with pytest.raises(MissingPackages, match=r"^rabbitmq-server and redis are not installed; run as root: "):
        ensure(Machine(works=False), root=True, manager=DNF)


@pytest.mark.parametrize(
    ("platform", "text"),
    [
        ("linux", r"^Redis is not installed, and there is no apt-get, dnf, apk: install by hand, or install Docker$"),
        ("darwin", r"^Redis is not installed, and neither is Homebrew: .* then run: brew install redis$"),
    ],
)
def test_a_machine_without_a_package_manager_is_told_what_is_needed(
    platform: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(MissingPackages, match=text):
        packages.ensure(["redis"], installed=Machine().installed, run=Machine().run, root=True)


def test_a_mac_takes_homebrew_whatever_else_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/local/bin/{name}")
    monkeypatch.setattr(packages, "_one_at_a_time", lambda _: nullcontext())
    machine = Machine()
    packages.ensure(["rabbitmq", "redis"], installed=machine.installed, run=machine.run, root=False)
    assert machine.commands == ["brew install rabbitmq redis"]
