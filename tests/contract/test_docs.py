"""What the documentation says is so: its code runs, its commands and links exist, its tables match the code.

Blocks of a page share a namespace. A Python block whose first line is ``# a/path.py`` is a file, as is one in another
language; a ``diff`` block changes one. ``# amqp`` marks a block that needs a real broker.
"""

import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import dramatiq.cli
import pika
import pytest
import typer.main
from documentation import PAGES, ROOT, SERVICE_PAGES, Block, blocks, name_of
from dramatiq import Message

from jobkit.broker import topology
from jobkit.broker.envelope import decode
from jobkit.cli import app
from jobkit.contracts.email import SendEmail
from jobkit.contracts.job import lane_queue, service_of
from jobkit.deadletters import Failure, Reason
from jobkit.settings import EnvironmentSettings, PlatformSettings
from jobkit.store.base import JobRecord, JobState
from jobkit.store.memory import MemoryStore

SERVICES = tuple(sorted(file.parent.name for file in ROOT.glob("services/*/pyproject.toml")))
ORIGINAL = {"email", "etl", "images", "inference"}  #: From which the README's fifth service starts.
MAX_LINE = 160


def shell_lines() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for block in blocks(page, "sh"):
            for line in block.text.splitlines():
                yield name_of(page), line
        # In running text a command is in backticks.
        for command in re.findall(r"`((?:make|jobkit) [^`]+)`", page.read_text()):
            yield name_of(page), command


# Code ------------------------------------------------------------------------------------------------------------


class Post:
    """Takes the place of the connection to a broker; refuses what no service would run."""

    sent: list[Message[Any]]

    def __init__(self, *_: object, **__: object) -> None:
        self.sent = []

    def send(self, messages: Sequence[Message[Any]], *, delay: timedelta = timedelta()) -> None:
        for message in messages:
            service = service_of(message.queue_name)
            if service in SERVICES:
                declared = importlib.import_module(f"{service}_service.actors").service
                contract = declared.actors[message.actor_name].contract
                lanes = {lane_queue(contract, lane) for lane in contract.lanes}
                assert message.queue_name in lanes
                contract.model_validate(message.kwargs)
        assert delay >= timedelta()
        self.sent.extend(messages)

    def stream(
        self, messages: Iterable[Message[Any]], *, delay: timedelta = timedelta()
    ) -> Iterator[tuple[Message[Any], None]]:
        for message in messages:
            self.send([message], delay=delay)
            yield message, None

    def close(self) -> None: ...


@pytest.mark.parametrize("page", [p for p in [*PAGES, *SERVICE_PAGES] if blocks(p, "python")], ids=name_of)
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobkit.producer.Sender", Post)
    monkeypatch.setattr("jobkit.store.redis.RedisStore", lambda *_, **__: MemoryStore())
    monkeypatch.setenv("JOBKIT_BROKER_URL", "amqp://guest:guest@127.0.0.1:5672/%2F")
    monkeypatch.setenv("JOBKIT_STORE_URL", "redis://127.0.0.1:6379/0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dramatiq.broker.global_broker", None)
    namespace: dict[str, object] = {"__name__": "page"}
    for block in blocks(page, "python"):
        if block.path or block.text.startswith("# amqp"):
            continue
        source = "\n" * (block.line - 1) + block.text  # so that an error shows the page's line
        exec(compile(source, name_of(page), "exec"), namespace)
    for name, value in list(namespace.items()):
        if name.startswith("test_") and callable(value):
            arguments = {"tmp_path": tmp_path} if "tmp_path" in value.__code__.co_varnames else {}  # type: ignore[attr-defined]  # a function
            value(**arguments)


def test_the_plain_client_of_the_readme_sends_a_job(vhost_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    [block] = [b for b in blocks(ROOT / "README.md", "python") if b.text.startswith("# amqp")]
    monkeypatch.setenv("JOBKIT_BROKER_URL", vhost_url)
    with pika.BlockingConnection(pika.URLParameters(vhost_url)) as connection:
        channel = connection.channel()
        with pytest.raises(pika.exceptions.UnroutableError):
            exec(compile(block.text, "README.md", "exec"), {})
        topology.declare_queue(channel, "email")
        exec(compile(block.text, "README.md", "exec"), {})
        _, properties, body = channel.basic_get("email", auto_ack=True)
        assert properties is not None
        assert body is not None
        message = decode(body, properties, "email")
        SendEmail.model_validate(message.kwargs)
        assert (message.actor_name, message.message_id) == (properties.type, properties.message_id)


# A fifth service -------------------------------------------------------------------------------------------------


def apply_diff(block: Block, tree: Path) -> None:
    file = tree / block.path
    text = file.read_text()
    for hunk in block.content.split("@@\n"):
        lines = hunk.splitlines()
        old = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("+"))
        new = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("-"))
        assert text.count(old) == 1, (
            f"README.md, line {block.line}: {block.path} has this {text.count(old)} times:\n{old}"
        )
        text = text.replace(old, new)
    file.write_text(text)


@pytest.mark.timeout(400)  # nine commands, each a process that loads what it checks
def test_the_fifth_service_of_the_readme_is_a_service_like_the_others(tmp_path: Path) -> None:
    if set(SERVICES) != ORIGINAL:
        pytest.skip("the README starts from the four services that the template comes with")
    for folder in ("shared", "services", "tests/check", "tests/contract", "tests/harness", "deploy", "docs/reference"):
        ignored = shutil.ignore_patterns("__pycache__", ".env", "rabbitmq", "redis")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    for name in ("pyproject.toml", ".importlinter", ".env"):
        shutil.copy(ROOT / name, tmp_path / name)
    shell = [b for b in blocks(ROOT / "README.md", "sh") if "services/reports/Dockerfile" in b.text]
    subprocess.run(["/bin/sh", "-e", "-c", shell[0].text], cwd=tmp_path, check=True)
    for block in blocks(ROOT / "README.md", "python", "toml", "markdown"):
        if block.path:
            file = tmp_path / block.path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.content)
    for block in blocks(ROOT / "README.md", "diff"):
        apply_diff(block, tmp_path)
    shutil.copy(
        ROOT / "services/email/requirements.lock", tmp_path / "services/reports/requirements.lock"
    )  # `make lock`
    ours = [
        "services/reports",
        "shared/src/jobkit/contracts/reports.py",
        "tests/unit/services/test_reports_handlers.py",
    ]
    reference = ["pytest", "-q", "-p", "no:cacheprovider", "tests/check/test_settings_reference.py"]
    status, said = run_in(tmp_path, *reference)
    assert status == 1
    with (tmp_path / "docs/reference/settings.md").open("a") as page:
        page.writelines(f"{line}\n" for line in re.findall(r"^E +(\| `REPORTS_.*\|)$", said, re.MULTILINE))
    for command in (
        reference,
        ["pytest", "-q", "-p", "no:cacheprovider", "tests/unit/services/test_reports_handlers.py"],
        ["pytest", "-q", "-p", "no:cacheprovider", "tests/contract/test_service_shape.py", "-k", "reports"],
        ["pytest", "-q", "-p", "no:cacheprovider", "tests/check/test_services.py", "-k", "reports or every or layers"],
        ["ruff", "check", "--no-cache", *ours],
        ["ruff", "format", "--no-cache", "--check", *ours],
        ["mypy", "--cache-dir", str(ROOT / ".mypy_cache/fifth"), *ours],
        ["importlinter.cli", "lint", "--no-logo"],
    ):
        status, said = run_in(tmp_path, *command)
        assert status == 0, f"{' '.join(command)}\n{said}"


def run_in(tree: Path, *command: str) -> tuple[int, str]:
    """Run a module in the tree of the fifth service: its exit status, and what it said."""
    sources = [tree / "shared/src", tree / "services/reports/src"]
    plugins = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "pytest_timeout"}  # the only one it configures
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=tree,
        env={**os.environ, **plugins, "PYTHONPATH": os.pathsep.join(map(str, sources))},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


# Commands --------------------------------------------------------------------------------------------------------


def test_each_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {(page, target) for page, line in shell_lines() for target in re.findall(r"\bmake ([a-z][a-z-]*)", line)}
    assert [(page, target) for page, target in sorted(named) if target not in targets] == []


def test_each_jobkit_command_that_is_named_exists_with_its_options() -> None:
    group = typer.main.get_command(app)
    commands = group.commands  # type: ignore[attr-defined]  # a group, as it has several commands
    wrong = []
    for page, line in shell_lines():
        for name, rest in re.findall(r"\bjobkit ([a-z][a-z-]*)([^|&#;]*)", line):
            options = {o for parameter in commands[name].params for o in parameter.opts} if name in commands else set()
            if name not in commands or not set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", rest)) <= options:
                wrong.append((page, line))
    assert wrong == []


def test_each_option_of_the_dramatiq_command_that_is_named_exists() -> None:
    parser = dramatiq.cli.make_argument_parser()  # type: ignore[no-untyped-call]  # Dramatiq's command has no annotations
    for _page, line in shell_lines():
        found = re.search(r"\bdramatiq (\w+_service\.main:broker.*)", line)
        if found:
            parser.parse_args(found[1].partition("#")[0].split())


def test_each_jobkit_command_is_in_the_reference() -> None:
    reference = (ROOT / "docs/reference/cli.md").read_text()
    names = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # a group
    assert [name for name in names if f"jobkit {name}" not in reference] == []


# Links -----------------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [*PAGES, *SERVICE_PAGES], ids=name_of)
def test_each_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert file.is_relative_to(ROOT), target
        assert not anchor or anchor in anchors(file), target


def test_each_file_that_is_named_exists() -> None:
    folders = ("shared/", "services/", "deploy/", "tests/", "docs/", "examples/", "jobkit/")
    for page in PAGES:
        for name in re.findall(r"`([\w./-]+/[\w./-]*\w\.(?:py|md|lua|yaml|toml|sh))`", page.read_text()):
            if name.startswith(folders) and "reports" not in name:
                where = ROOT / "shared/src" if name.startswith("jobkit/") else ROOT
                assert (where / name).exists(), f"{name_of(page)}: {name}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_is_in_the_index_and_reads_well_in_a_terminal(page: Path) -> None:
    if page.is_relative_to(ROOT / "docs") and page != ROOT / "docs/README.md":
        assert f"({page.relative_to(ROOT / 'docs')})" in (ROOT / "docs/README.md").read_text()
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    long = [line for line in prose.splitlines() if len(line) > MAX_LINE and not line.startswith("|")]
    assert long == []


# Tables ----------------------------------------------------------------------------------------------------------


def settings_classes() -> list[type[EnvironmentSettings]]:
    names = [(f"{name}_service.settings", f"{name.title()}Settings") for name in SERVICES]
    return [PlatformSettings, *(getattr(importlib.import_module(module), name) for module, name in names)]


def test_each_variable_that_is_named_exists() -> None:
    known = {settings.variable(field) for settings in settings_classes() for field in settings.model_fields}
    pattern = rf"\b((?:JOBKIT|{'|'.join(name.upper() for name in SERVICES)})_[A-Z_]*[A-Z])\b"
    for page in PAGES:
        named = set(re.findall(pattern, page.read_text()))
        named -= {f"{name}_FILE" for name in known}
        assert named <= known, f"{name_of(page)}: {named - known}"


def test_the_reference_of_dead_letters_names_every_header_and_reason() -> None:
    page = (ROOT / "docs/reference/dead-letters.md").read_text()
    failure = Failure.of(ValueError(), Reason.PERMANENT, actor="a", queue="a", died_at=1)
    assert [header for header in failure.headers() if f"| `{header}` |" not in page] == []
    assert [reason.value for reason in Reason if f"| `{reason.value}` |" not in page] == []


def test_the_reference_of_job_records_names_every_state_and_field() -> None:
    page = (ROOT / "docs/reference/job-records.md").read_text()
    assert [state.value for state in JobState if f"| `{state.value}` |" not in page] == []
    assert [field for field in JobRecord.__dataclass_fields__ if field != "job" and f"| `{field}` |" not in page] == []


def test_the_reference_of_the_topology_names_its_arguments() -> None:
    page = (ROOT / "docs/reference/topology.md").read_text()
    assert f"| `x-delivery-limit` | {topology.DELIVERY_LIMIT} |" in page


def test_the_reference_of_traps_names_every_test_file() -> None:
    page = (ROOT / "docs/reference/traps.md").read_text()
    assert [file.name for file in (ROOT / "tests/traps").rglob("test_*.py") if f"`{file.name}`" not in page] == []


def test_the_reference_of_telemetry_names_every_metric_and_attribute() -> None:
    page = (ROOT / "docs/reference/telemetry.md").read_text()
    source = (ROOT / "shared/src/jobkit/telemetry.py").read_text()
    names = set(re.findall(r'"((?:messaging|jobkit|error)\.[a-z_.]+)"', source))
    assert [name for name in sorted(names) if f"`{name}`" not in page] == []
