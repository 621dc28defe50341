"""A run of the tests says what it tested on, and never passes over a missing server unless it was told to."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HARNESS = Path(__file__).resolve().parents[1] / "harness"
HOOKS = """
from missing_servers import pytest_runtest_call, pytest_runtest_setup
from tested_on import note, pytest_sessionfinish, pytest_terminal_summary, pytest_testnodedown
"""
NO_SERVER = """
import pytest
from local_stack import servers
from local_stack.redis import Redis

servers.find = lambda service: None

@pytest.fixture(scope="session")
def redis_server(tmp_path_factory):
    node = Redis(tmp_path_factory.mktemp("redis"))
    node.start()
    return node

def test_with_a_fixture(redis_server): ...
def test_another_with_the_fixture(redis_server): ...
def test_with_a_node_of_its_own(tmp_path): Redis(tmp_path).start()
def test_without_a_server(): ...
"""
VERSIONS = """
import pytest, tested_on
from local_stack.rabbitmq import RabbitMQ
from local_stack.redis import Redis

@pytest.mark.parametrize("number", range(4))
def test_uses_nodes(number, pytestconfig, tmp_path, monkeypatch):
    monkeypatch.setattr(tested_on, "_version", lambda node: {"RabbitMQ": "4.3.6", "Redis": "8.0.6"}[node.title])
    tested_on.note(pytestconfig, RabbitMQ(tmp_path / "a") if number % 2 else Redis(tmp_path / "b"))
"""


def run(folder: Path, tests: str, *options: str, skip: str = "") -> tuple[int, list[str]]:
    (folder / "conftest.py").write_text(HOOKS)
    (folder / "test_it.py").write_text(tests)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--rootdir",
            str(folder),
            *options,
            str(folder),
        ],
        # Options for this run may be in the environment, too: they are not for that one. Without the plugins that it
        # does not need, it takes a third of the time.
        env={
            **os.environ,
            "PYTHONPATH": str(HARNESS),
            "SKIP_MISSING_SERVERS": skip,
            "PYTEST_ADDOPTS": "",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        },
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return done.returncode, done.stdout.splitlines()


@pytest.mark.parametrize("skip", ["", "0", "yes"])
def test_a_missing_server_is_a_failure(tmp_path: Path, skip: str) -> None:
    status, lines = run(tmp_path, NO_SERVER, skip=skip)
    assert status == 1
    assert re.match(r"1 failed, 1 passed, 2 errors in ", lines[-1])


def test_a_missing_server_is_skipped_only_with_the_switch_and_the_run_says_so(tmp_path: Path) -> None:
    status, lines = run(tmp_path, NO_SERVER, skip="1")
    assert status == 0
    assert re.match(r"1 passed, 3 skipped in ", lines[-1])
    assert lines[-2] == "SKIP_MISSING_SERVERS=1: tests whose server is not installed were skipped"


@pytest.mark.parametrize("options", [(), ("-p", "xdist", "-n", "2")])
def test_the_line_before_the_counts_names_the_versions_that_were_used(tmp_path: Path, options: tuple[str, ...]) -> None:
    status, lines = run(tmp_path, VERSIONS, *options)
    assert status == 0
    python = ".".join(map(str, sys.version_info[:3]))
    assert lines[-2] == f"tested on Python {python}, RabbitMQ 4.3.6, Redis 8.0.6, no PostgreSQL"
    assert lines[-1].startswith("4 passed in ")
