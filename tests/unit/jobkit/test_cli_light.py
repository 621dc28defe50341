"""A worker loads no part of a library that it does not use, and its processes share what they do use."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobkit.cli import app
from jobkit.cli.entry import plain_worker

SETTINGS = "from jobkit.settings import ServiceSettings\nclass BareSettings(ServiceSettings): ...\n"

#: A service whose supervisor says what it has imported at the moment in which it forks.
MAIN = """
import contextlib, os, sys
from jobkit.contracts.job import Job
from jobkit.service import Service

class Noop(Job, queue="bare"): ...

service = Service("bare", lifespan=lambda _: contextlib.nullcontext())

@service.actor(Noop)
def noop(job, context): ...

def fork():
    print(*sys.modules, flush=True)
    os._exit(0)

os.fork = fork
"""

#: Some are the first of a package that is not imported otherwise.
UNUSED = frozenset(
    {
        *("attr", "pygments", "rich", "typer"),
        *("pendulum", "periodiq"),
        *("http.client", "requests", "urllib.request"),
        *("opentelemetry.exporter", "opentelemetry.sdk", "opentelemetry.sdk.metrics", "redis.asyncio.client"),
        *("sentry_sdk", "multiprocessing.pool", "sqlite3", "unittest"),
    }
)


def imported_at_the_fork(folder: Path, words: Sequence[str], environment: Mapping[str, str]) -> set[str]:
    package = folder / "bare_service"
    package.mkdir()
    for name, text in (("__init__", ""), ("settings", SETTINGS), ("main", MAIN)):
        (package / f"{name}.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "jobkit.cli", *words],
        cwd=folder,
        env={"PYTHONPATH": str(folder), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return set(done.stdout.split())


@pytest.mark.skipif(sys.platform == "darwin", reason="nothing is forked there")
def test_a_worker_that_uses_no_more_imports_no_more(tmp_path: Path) -> None:
    modules = imported_at_the_fork(tmp_path, ["worker", "bare", "--queue", "bare"], {})
    assert modules & UNUSED == set()
    assert {"bare_service.main", "jobkit.store.redis", "structlog", "encodings.idna"} <= modules


@pytest.mark.skipif(sys.platform == "darwin", reason="nothing is forked there")
def test_worker_processes_share_the_modules_that_the_settings_ask_for(tmp_path: Path) -> None:
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "SENTRY_DSN": "https://key@localhost/1"}
    modules = imported_at_the_fork(tmp_path, ["worker", "bare"], environment)
    exporters = {f"opentelemetry.exporter.otlp.proto.http.{one}_exporter" for one in ("trace", "metric")}
    assert {"jobkit.middleware.sentry", "opentelemetry.sdk.trace.export", "requests", *exporters} <= modules


def test_worker_processes_read_no_script_that_their_supervisor_has_read() -> None:
    code = (
        "import sys\n"
        "from jobkit.cli.preloading import RedisSchedules, RedisStore, preload\n"
        "from jobkit.settings import load_platform\n"
        "preload(load_platform())\n"
        "opened = []\n"
        "sys.addaudithook(lambda event, arguments: opened.append(arguments) if event == 'open' else None)\n"
        "RedisStore('redis://localhost'), RedisSchedules('redis://localhost')\n"
        "print(opened)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_what_is_left_out_or_put_off_can_be_imported_later() -> None:
    code = (
        "import sys\n"
        "from jobkit.cli.light import load\n"
        "load()\n"
        "import redis, structlog\n"
        "assert {'rich', 'opentelemetry.sdk.metrics', 'redis.asyncio.client'}.isdisjoint(sys.modules)\n"
        "import rich, opentelemetry.sdk.metrics\n"
        "assert redis.asyncio.Redis.from_url('redis://localhost').connection_pool\n"
        "import redis.asyncio as later\n"
        "from redis.asyncio import Sentinel\n"
        "import redis.asyncio.observability.recorder\n"
        "assert later is redis.asyncio and Sentinel is redis.asyncio.sentinel.Sentinel\n"
        "try: later.nothing\n"
        "except AttributeError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("module 'redis.asyncio' has no attribute 'nothing'\n", "")


def test_what_is_imported_already_stays_as_it_is() -> None:
    code = (
        "import rich, redis.asyncio, opentelemetry.sdk.metrics, sys\n"
        "before = dict(sys.modules)\n"
        "from jobkit.cli.light import load\n"
        "load()\n"
        "import structlog\n"
        "print(all(sys.modules[name] is module for name, module in before.items()), structlog.dev.rich is rich)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True True\n"


@pytest.mark.parametrize(
    ("words", "is_plain"),
    [
        (["worker", "email"], True),
        (["worker", "email", "-q", "email", "--queue", "email.bulk"], True),
        (["worker", "--queue", "email", "email"], True),
        (["worker", "../email"], True),
        (["worker", ""], True),
        (["worker"], False),
        (["worker", "email", "images"], False),
        (["worker", "--help"], False),
        (["worker", "email", "--help"], False),
        (["worker", "email", "--queue"], False),
        (["worker", "email", "-q"], False),
        (["worker", "email", "--queue", "-q"], False),
        (["worker", "email", "--queue=email"], False),
        (["worker", "--", "email"], False),
        (["worker", "-qemail", "email"], False),
        (["scheduler"], False),
        (["status", "send_email", "1"], False),
        ([], False),
    ],
)
def test_a_worker_that_is_asked_for_plainly_is_understood_as_typer_would(
    words: list[str], is_plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, list[str]]] = []
    monkeypatch.setattr("jobkit.cli.entry.run_worker", lambda service, queues: asked.append((service, list(queues))))
    read = plain_worker(words)
    assert (read is not None) is is_plain
    if read is not None:
        assert CliRunner().invoke(app, words).exit_code == 0
        assert asked == [read]
