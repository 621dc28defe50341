"""What a contract's class says of itself, and what it costs a producer."""

import subprocess
import sys
import types
from datetime import date

import pytest
from pydantic import ValidationError

from jobkit.contracts import Job


class BuildReport(Job, queue="reports"):
    """Build one monthly report."""

    account: str
    month: date


@pytest.mark.parametrize(
    ("name", "actor"),
    [
        ("BuildReport", "build_report"),
        ("FetchHTTPPage", "fetch_http_page"),
        ("Ping", "ping"),
        ("ToS3Copy", "to_s3_copy"),
    ],
)
def test_the_actor_is_named_after_the_class(name: str, actor: str) -> None:
    contract = types.new_class(name, (Job,), {"queue": "reports"})
    assert vars(contract)["actor"] == actor


def test_a_contract_knows_its_queue_and_version() -> None:
    class Later(Job, queue="reports.slow", version=3):
        pass

    assert (BuildReport.queue, BuildReport.version) == ("reports", 1)
    assert (Later.queue, Later.version) == ("reports.slow", 3)
    assert Job.queue == ""


@pytest.mark.parametrize(
    "queue",
    ["", "Reports", "9lives", "a b", "a..b", ".a", "a.", "a-b", "a*", "#", "a\n", "é", "x" * 101, "jöb", "_a"],
)
def test_a_queue_that_does_not_fit_the_wire_is_refused_where_it_is_written(queue: str) -> None:
    with pytest.raises(TypeError, match="BadQueue: queue="):

        class BadQueue(Job, queue=queue):
            pass


def test_a_version_below_one_is_refused() -> None:
    with pytest.raises(TypeError, match="version=0"):

        class BadVersion(Job, queue="reports", version=0):
            pass


@pytest.mark.parametrize("field", ["queue", "actor", "version"])
def test_a_field_cannot_take_the_contract_s_own_names(field: str) -> None:
    with pytest.raises(TypeError, match=f"'{field}' belongs to the contract"):
        types.new_class("Hidden", (Job,), {"queue": "reports"}, lambda body: body.update(__annotations__={field: str}))


def test_a_misspelt_field_fails_at_the_producer() -> None:
    with pytest.raises(ValidationError, match="acount"):
        BuildReport.model_validate({"acount": "a-17", "month": "2026-10-01"})


def test_a_job_cannot_be_changed_once_made() -> None:
    job = BuildReport(account="a-17", month=date(2026, 10, 1))
    with pytest.raises(ValidationError, match="frozen"):
        job.account = "a-18"  # type: ignore[misc]  # the plugin knows it too


def test_a_producer_of_another_kind_needs_nothing_but_pydantic() -> None:
    code = (
        "import sys, importlib, pkgutil, jobkit.contracts as c\n"
        "for m in pkgutil.iter_modules(c.__path__): importlib.import_module(f'{c.__name__}.{m.name}')\n"
        "heavy = {'dramatiq', 'pika', 'redis', 'structlog', 'opentelemetry', 'periodiq', 'pydantic_settings'}\n"
        "print(sorted(heavy & {name.partition('.')[0] for name in sys.modules}),\n"
        "      sorted(n for n in sys.modules if n.startswith('jobkit.') and not n.startswith('jobkit.contracts')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "[] []"
