"""A Mac is a developer's machine, too: what only Linux has stands behind a branch, and the other branch works."""

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from local_stack import postgres, process, servers
from local_stack.errors import NodeFailed
from local_stack.process import Process

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ["shared/src", "services/*/src", "deploy/local/src", "examples"]
#: The unit tests name such things to fake them.
TESTS = ["tests/harness", "tests/chaos", "tests/integration", "tests/traps", "tests/contract", "tests/load"]
ONLY_LINUX = re.compile(r"\b(setpriv|pdeathsig|apt-get|LD_PRELOAD)\b|^/(proc|sys|dev/shm)(/|$)")


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of Homebrew on what says that it is a Mac."""
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr(servers, "LIBRARIES", tmp_path / "lib")
    monkeypatch.setattr(servers, "HOMEBREW", (tmp_path / "homebrew", tmp_path / "intel"))
    monkeypatch.setattr(process, "_PROC", tmp_path / "proc")
    return tmp_path / "homebrew"


def program(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch(mode=0o755)
    return file


def texts(file: Path) -> Iterator[str]:
    """The strings of a program, without those that only explain: docstrings."""
    tree = ast.parse(file.read_text())
    explained = {
        node.body[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in explained:
            yield node.value


def test_what_only_linux_has_stands_in_a_file_that_asks_for_the_platform() -> None:
    files = [f for pattern in [*SOURCES, *TESTS] for folder in ROOT.glob(pattern) for f in folder.rglob("*.py")]
    assert len(files) > 200
    without = [
        str(file.relative_to(ROOT))
        for file in files
        if any(map(ONLY_LINUX.search, texts(file))) and "sys.platform" not in file.read_text()
    ]
    assert without == []


def test_homebrews_servers_are_found_though_they_are_not_on_the_path(
    mac: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    redis = program(mac / "bin/redis-server")
    rabbitmq = program(mac / "opt/rabbitmq/sbin/rabbitmq-server")
    program(mac / "opt/postgresql@9/bin/postgres")
    newest = program(mac / "opt/postgresql@17/bin/postgres")
    library = program(mac / "opt/libfaketime/lib/faketime/libfaketimeMT.1.dylib")
    assert servers.find("redis") == redis
    assert servers.find("rabbitmq") == rabbitmq
    assert servers.find("postgres") == newest
    assert servers.find("faketime") == library


def test_processes_are_read_and_ended_by_ps_where_there_is_no_proc(
    mac: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def ps(*arguments: str) -> list[str]:
        """What macOS answers: states and starts of processes that are here."""
        asked.append(" ".join(arguments))
        if arguments[0] == "-axo":
            return [f"{child.pid} {os.getpid()}", f"{grandchild} {child.pid}"]
        return ["S    Thu Nov 26 09:00:00 2026"] if _exists(int(arguments[-1])) else []

    monkeypatch.setattr(process, "_ps", ps)
    said = tmp_path / "log"
    child = Process.spawn(["/bin/sh", "-c", "sleep 60 & echo $!; wait"], log=said)
    while not said.read_text().strip():
        assert child.alive
    grandchild = int(said.read_text())
    child.kill()
    assert not child.alive
    assert not _exists(grandchild)
    assert child.started == "Thu Nov 26 09:00:00 2026"
    assert any(command.startswith("-o state=,lstart= -p ") for command in asked)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # One that has ended and that init has not reaped yet, as `ps` would tell by its state.
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:1]


def test_no_program_is_asked_to_set_what_only_linux_can(
    mac: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda name, **_: f"/usr/bin/{name}")  # Homebrew has a setpriv of its own
    monkeypatch.setattr(process, "_ps", lambda *_: ["S now"])
    started: list[list[str]] = []

    class Started:
        pid, returncode = os.getpid(), None

        def __init__(self, command: list[str], **_: object) -> None:
            started.append(command)

    monkeypatch.setattr("subprocess.Popen", Started)
    Process.spawn(["redis-server"], log=tmp_path / "log")
    assert started == [["redis-server"]]


def test_postgresql_as_root_says_that_it_needs_another_user(mac: Path, tmp_path: Path) -> None:
    with pytest.raises(NodeFailed, match="run this as your own user"), postgres._reachable(tmp_path, "nobody"):
        pass
