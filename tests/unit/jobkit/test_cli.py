"""The command says in one line what is wrong, cuts nothing, and leaves no dead process's sign of life behind."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobkit.cli import app
from jobkit.cli.dead_letters import Letter
from jobkit.cli.job import block, document, unknown
from jobkit.cli.output import print_blocks, print_json
from jobkit.cli.scheduler import stop_on_signals
from jobkit.deadletters import Failure, Reason
from jobkit.nearest import nearest
from jobkit.settings import PlatformSettings
from jobkit.store.base import JobKey, JobRecord, JobState

SETTINGS = "from jobkit.settings import ServiceSettings\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where services of these tests are; no setting of this machine counts."""
    for name in list(os.environ):
        if name.startswith("JOBKIT_"):
            monkeypatch.delenv(name)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.partition(".")[0].endswith("_service"):
            del sys.modules[name]


def service(folder: Path, name: str, settings: str) -> None:
    package = folder / f"{name}_service"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "settings.py").write_text(settings)


def refused(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, arguments)
    assert done.stderr.count("\n") == 1, done.output
    return done.exit_code, done.stderr


@pytest.mark.parametrize("name", ["absent", "../email", ".email", "e.mail", ""])
def test_a_service_that_is_not_there_is_said_so(name: str) -> None:
    status, line = refused("worker", name)
    assert status == 2
    assert line.startswith(f"there is no service {name!r} here: ")


def test_a_service_whose_dependency_is_missing_names_the_dependency(folder: Path) -> None:
    service(folder, "lacking", f"{SETTINGS}import no_such_package\n")
    status, line = refused("worker", "lacking")
    assert status == 2
    assert "'no_such_package', which is not installed" in line
    assert "there is no service" not in line


def test_a_service_without_settings_is_told_what_it_needs(folder: Path) -> None:
    service(folder, "bare", SETTINGS)
    assert refused("worker", "bare") == (
        2,
        "bare_service.settings has no settings: it needs a class that is derived from ServiceSettings\n",
    )


def test_a_broker_whose_name_does_not_resolve_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBKIT_BROKER_URL", "amqp://jobs:s3cret@no-such-host.invalid:5672/%2F")
    status, line = refused("dead-letters", "email")
    assert status == 1
    assert line.startswith("RabbitMQ at no-such-host.invalid:5672/ (JOBKIT_BROKER_URL) cannot be reached: ")


def test_a_worker_starts_without_the_signs_of_life_of_those_that_crashed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service(folder, "restarted", f"{SETTINGS}class Probe(ServiceSettings): ...\n")
    health = folder / "health"
    left: list[Path] = []
    health.mkdir()
    (health / "worker-17.json").touch()
    os.utime(health / "worker-17.json", (0, 0))
    monkeypatch.setenv("JOBKIT_HEALTH_FOLDER", str(health))
    monkeypatch.setattr("jobkit.cli.worker.configure_logging", lambda *_: None)
    monkeypatch.setattr("jobkit.cli.worker.starts", lambda *_, **__: None)
    monkeypatch.setattr("jobkit.cli.worker.Supervisor.run", lambda _: left.extend(health.iterdir()))
    done = CliRunner().invoke(app, ["worker", "restarted"])
    assert (done.exit_code, left) == (0, [])
    assert not (health / "worker-17.json").exists()


def test_a_scheduler_starts_without_the_signs_of_life_of_those_that_crashed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ends:
        def __init__(self, *_: object, **__: object) -> None: ...

        def run(self, *_: object, **__: object) -> None:
            assert not (folder / "scheduler-17.json").exists()

    (folder / "scheduler-17.json").touch()
    monkeypatch.setenv("JOBKIT_HEALTH_FOLDER", str(folder))
    monkeypatch.setattr("jobkit.cli.scheduler.Scheduler", Ends)
    monkeypatch.setattr("jobkit.cli.scheduler.configure_logging", lambda *_: None)
    monkeypatch.setattr("jobkit.cli.scheduler.signal.signal", lambda *_: None)
    assert CliRunner().invoke(app, ["scheduler"]).exit_code == 0


def test_a_health_folder_that_cannot_be_written_to_ends_the_worker_in_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service(folder, "placeless", f"{SETTINGS}class Placeless(ServiceSettings): ...\n")
    (folder / "file").touch()
    monkeypatch.setenv("JOBKIT_HEALTH_FOLDER", str(folder / "file"))
    status, line = refused("worker", "placeless")
    assert (status, line.partition(":")[0]) == (78, "JOBKIT_HEALTH_FOLDER")


NOW = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)


def milliseconds(time: datetime) -> int:
    return int(time.timestamp() * 1000)


def running(lease_until: datetime) -> JobRecord:
    started = milliseconds(NOW - timedelta(minutes=1))
    key = JobKey("email", "send_email", "welcome/ada")
    return JobRecord(key, JobState.RUNNING, 1, 0, 1, started_at=started, lease_until=milliseconds(lease_until))


def test_a_job_whose_worker_died_says_that_it_waits_for_a_worker(capsys: pytest.CaptureFixture[str]) -> None:
    record = running(NOW - timedelta(seconds=5))
    print_blocks([block(record, NOW)])
    assert capsys.readouterr().out.splitlines() == [
        "job: welcome/ada",
        "service: email",
        "actor: send_email",
        "state: running",
        "lease: over since 2026-03-01 12:00:25 UTC: its worker died or lost the store, and the job waits for a worker",
        "attempt: 1",
        "started: 2026-03-01 11:59:30 UTC",
    ]
    assert document(record, NOW)["lease_is_over"] is True


def test_a_job_that_runs_is_not_said_to_wait() -> None:
    record = running(NOW + timedelta(seconds=5))
    assert block(record, NOW)["lease"].startswith("until 2026-03-01 12:00:35 UTC")
    assert document(record, NOW)["lease_is_over"] is False


def test_a_waiting_job_says_when_it_is_due() -> None:
    due = milliseconds(NOW + timedelta(minutes=2))
    job = JobKey("email", "send_email", "a")
    record = JobRecord(job, JobState.WAITING, 1, 0, 1, due_at=due, failure="told to fail")
    assert (block(record, NOW)["due"], block(record, NOW)["lease"]) == ("2026-03-01 12:02:30 UTC", "")
    assert document(record, NOW)["due_at"] == "2026-03-01T12:02:30.000+00:00"
    assert document(record, NOW)["lease_until"] is None


@pytest.mark.parametrize(("rounds", "shown"), [(0, ""), (1, "once"), (2, "2 times")])
def test_a_job_says_how_often_its_dead_letter_was_sent_again(rounds: int, shown: str) -> None:
    record = replace(running(NOW), round=rounds)
    assert block(record, NOW)["sent again"] == shown


def test_no_summary_of_a_command_is_cut_in_the_list_of_commands() -> None:
    assert "..." not in CliRunner().invoke(app, ["--help"], color=False).output.partition("Commands:")[2]


def test_a_job_that_waits_for_something_else_than_its_time_says_for_what(capsys: pytest.CaptureFixture[str]) -> None:
    record = JobRecord(JobKey("email", "send_email", "a"), JobState.WAITING, 0, 0, 1, waits_for="breaker smtp is open")
    print_blocks([block(record, NOW)])
    assert "waits for: breaker smtp is open\n" in capsys.readouterr().out
    assert document(record, NOW)["waits_for"] == "breaker smtp is open"
    assert document(running(NOW), NOW)["waits_for"] is None


ACTORS = {"invoices": ["render_invoice", "send_reminder"], "email": ["send_email"]}


@pytest.mark.parametrize(
    ("actor", "service", "said"),
    [
        ("render_invoice", None, "nothing is known of render_invoice 7: it has not started, or its record has expired"),
        (
            "RenderInvoice",
            None,
            ("no worker of any service has announced an actor 'RenderInvoice': did you mean 'render_invoice'?"),
        ),
        (
            "render-invoice",
            "invoices",
            ("no worker of invoices has announced an actor 'render-invoice': did you mean 'render_invoice'?"),
        ),
        ("sendemial", None, "no worker of any service has announced an actor 'sendemial': did you mean 'send_email'?"),
        (
            "render_invoice",
            "email",
            ("no worker of email has announced an actor 'render_invoice': it is one of invoices"),
        ),
        ("x", "invoices", "no worker of invoices has announced an actor 'x', only render_invoice, send_reminder"),
        ("send_email", "emial", "no service 'emial' has run with this store: did you mean 'email'?"),
        ("send_email", "x", "no service 'x' has run with this store, only email, invoices, older"),
        ("anything", "older", "nothing is known of anything 7: it has not started, or its record has expired"),
    ],
)
def test_an_actor_or_service_that_does_not_exist_is_told_from_a_job_without_a_record(
    actor: str, service: str | None, said: str
) -> None:
    assert unknown(actor, "7", service, ["email", "invoices", "older"], ACTORS) == said


def test_where_no_worker_has_ever_run_nothing_is_guessed() -> None:
    assert unknown("send_email", "7", "email", [], {}).startswith("nothing is known of send_email 7: ")


@pytest.mark.parametrize(
    ("written", "found"),
    [("RenderInvoice", "render_invoice"), ("RENDER_INVOICE", "render_invoice"), ("zebra", None), ("", None)],
)
def test_a_name_is_found_in_whatever_case_it_was_written(written: str, found: str | None) -> None:
    assert nearest(written, ACTORS["invoices"]) == found
    assert nearest(written, []) is None


def test_no_line_is_cut_and_none_can_rewrite_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    error = ValueError("x" * 500 + "\x1b[2J\nsecond line")
    failure = Failure.of(error, Reason.NOT_RETRIED, actor="a", queue="q", died_at=milliseconds(NOW), attempts=1)
    print_blocks([Letter("1", "a", failure).block()] * 2)
    shown = capsys.readouterr().out
    assert f"failure: ValueError: {'x' * 500}\\x1b[2J\n  second line\n\njob: 1\n" in shown
    assert "died: 2026-03-01 12:00:30 UTC\n" in shown
    assert f"fingerprint: {failure.fingerprint}\n" in shown


def test_a_dead_letter_of_the_broker_itself_is_shown_without_what_nobody_knows(
    capsys: pytest.CaptureFixture[str],
) -> None:
    headers = {"x-death": [{"reason": "delivery_limit", "queue": "email"}]}
    letter = Letter("1", "send_email", Failure.from_headers(headers, "email.dlq"))
    print_blocks([letter.block()])
    assert "died:" not in capsys.readouterr().out
    print_json([letter.document()])
    [read] = json.loads(capsys.readouterr().out)
    assert (read["reason"], read["queue"], read["died_at"]) == ("delivery_limit", "email", None)


def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.mark.parametrize(
    ("arguments", "variable", "url"),
    [
        (("dead-letters", "email"), "JOBKIT_BROKER_URL", "amqp://jobs:s3cret@127.0.0.1:{}/%2F"),
        (("schedules",), "JOBKIT_STORE_URL", "redis://127.0.0.1:{}/0"),
        (("status", "send_email", "a", "--json"), "JOBKIT_STORE_URL", "redis://127.0.0.1:{}/0"),
    ],
)
def test_where_nothing_answers_a_variable_that_is_not_set_is_named_with_the_file_that_has_it(
    arguments: tuple[str, ...], variable: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, url.format(closed_port()))
    status, line = refused(*arguments)
    assert (status, "var/local/environment" in line, "s3cret" in line) == (1, False, False)
    # The defaults of the settings are ports at which this machine may well run something.
    settings = PlatformSettings.model_validate({variable.removeprefix("JOBKIT_").lower(): url.format(closed_port())})
    monkeypatch.delenv(variable)
    monkeypatch.setattr("jobkit.cli.platform.load_platform", lambda: settings)
    hint = f"{variable} is not set: after `make up`, say `set -a; . var/local/environment; set +a`\n"
    assert refused(*arguments)[1].endswith(hint)


def test_the_health_check_loads_no_client() -> None:
    code = (
        "import sys; sys.argv[1:] = ['health', '--folder', '/nowhere']\n"
        "from jobkit.cli import app\n"
        "try: app()\n"
        "except SystemExit as end: print(end.code, {'pika', 'redis', 'rich'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1 set()\n"


def test_the_scheduler_is_told_to_stop_while_it_begins_to_wait() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    stop = stop_on_signals()
    try:
        with stop._cond:  # type: ignore[attr-defined]  # where the wait is, when the signal comes; a part of CPython
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(5)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
