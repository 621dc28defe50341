"""Settings name the variable that is wrong, and refuse what is unsafe."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import Field, ValidationError
from pydantic_settings import SettingsConfigDict

from jobkit.errors import SettingsError
from jobkit.settings import PlatformSettings, ServiceSettings, exit_if_misconfigured, load_platform

RABBIT = "amqp://jobs:s3cret@rabbit:5672/%2F"
REDIS = "redis://:s3cret@redis:6379/0"


class ReportSettings(ServiceSettings):
    """A service's own settings."""

    model_config = SettingsConfigDict(env_prefix="REPORTS_", extra="ignore", frozen=True)

    warehouse_url: str = Field(description="Where the warehouse is.")
    page_size: int = Field(100, ge=1, description="Rows per page.")


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("JOBKIT_", "REPORTS_", "OTEL_", "SENTRY_")):
            monkeypatch.delenv(name)


def complaint(monkeypatch: pytest.MonkeyPatch, **variables: str) -> str:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as refusal:
        load_platform()
    return str(refusal.value)


def test_an_empty_environment_gives_settings_that_work_on_a_laptop() -> None:
    platform = load_platform()
    assert platform.environment == "development"
    assert platform.broker_urls == ("amqp://guest:guest@127.0.0.1:5672/%2F",)
    assert platform.otlp_endpoint is None
    assert platform.sentry_dsn is None


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("JOBKIT_HEARTBEAT_SECONDS", "soon"),
        ("JOBKIT_LEASE_SECONDS", "0.5"),
        ("JOBKIT_LEASE_SECONDS", "nan"),
        ("JOBKIT_RECORD_TTL_SECONDS", "59"),
        ("JOBKIT_MAX_CRASHES", "0"),
        ("JOBKIT_MAX_MESSAGE_BYTES", "8388608"),  # twice this is all that RabbitMQ 4 takes, and a copy is larger
        ("JOBKIT_LOG_FORMAT", "xml"),
        ("JOBKIT_LOG_LEVEL", "LOUD"),
        ("JOBKIT_ENVIRONMENT", "prod"),
        ("JOBKIT_BROKER_URL", ""),
        ("JOBKIT_BROKER_URL", "http://rabbit:5672"),
        ("JOBKIT_BROKER_URL", "amqp://"),
        ("JOBKIT_BROKER_URL", "rabbit:5672"),
        ("JOBKIT_BROKER_URL", f"{RABBIT},localhost"),
        ("JOBKIT_BROKER_URL", f"{RABBIT},"),
        ("JOBKIT_BROKER_URL", "amqp://jobs:s3cret@rabbit:port/%2F"),
        ("JOBKIT_BROKER_URL", "amqp://jobs:s3cret@rabbit:99999/%2F"),
        ("JOBKIT_BROKER_URL", "amqp://jobs:s3cret@[rabbit/%2F"),
        ("JOBKIT_BROKER_URL", f"{RABBIT}?heartbeat=abc"),
        ("JOBKIT_BROKER_URL", f"{RABBIT}?foo=1"),
        ("JOBKIT_BROKER_URL", f"{RABBIT}?ssl_options=nonsense("),
        ("JOBKIT_BROKER_URL", f"{RABBIT}?ssl_options=%7B%27certfile%27%3A%27/no/such.pem%27%7D"),
        ("JOBKIT_BROKER_URL", f"{RABBIT},{RABBIT}?heartbeat=abc"),
        ("JOBKIT_BROKER_URL", "amqp://jobs@rabbit:5672/%2F"),
        ("JOBKIT_BROKER_URL", "memory://"),
        ("JOBKIT_STORE_URL", f"{REDIS}?socket_timeout=zz"),
        ("JOBKIT_STORE_URL", f"{REDIS}?socket_timeout=60"),
        ("JOBKIT_STORE_URL", f"{REDIS}?foo=1"),
        ("JOBKIT_STORE_URL", f"{REDIS}?protocol=9"),
        ("JOBKIT_STORE_URL", "rediss://redis?ssl_cert_reqs=maybe"),
        ("JOBKIT_STORE_URL", "memory://"),
        ("JOBKIT_STORE_URL", "localhost:6379"),
        ("JOBKIT_STORE_URL", "memcached://redis"),
        ("JOBKIT_STORE_URL", "redis://redis:port/0"),
    ],
)
def test_a_malformed_value_is_refused_in_one_line_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    said = complaint(monkeypatch, **{variable: value})
    assert said.startswith(f"{variable}: ")
    assert "\n" not in said


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("JOBKIT_BROKER_URL", "http://jobs:s3cret@rabbit:5672"),
        ("JOBKIT_BROKER_URL", f"{RABBIT}?heartbeat=abc"),
        ("JOBKIT_STORE_URL", f"{REDIS}?password=s3cret&foo=1"),
    ],
)
def test_a_complaint_about_a_url_does_not_repeat_its_password(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    said = complaint(monkeypatch, **{variable: value})
    assert said.startswith(f"{variable}: ")
    assert "s3cret" not in said


def test_the_options_of_a_url_that_its_library_takes_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBKIT_BROKER_URL", f"{RABBIT}?heartbeat=20&connection_attempts=2")
    monkeypatch.setenv("JOBKIT_STORE_URL", "unix:///run/redis.sock?db=1&password=s3cret")
    assert load_platform().broker_urls == (f"{RABBIT}?heartbeat=20&connection_attempts=2",)


def test_a_lease_that_one_hanging_renewal_would_outlast_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    said = complaint(monkeypatch, JOBKIT_LEASE_SECONDS="3", JOBKIT_STORE_TIMEOUT_SECONDS="0.6")
    assert said.startswith("JOBKIT_STORE_TIMEOUT_SECONDS: 0.6 s ")
    assert "JOBKIT_LEASE_SECONDS (3 s)" in said
    assert "\n" not in said
    monkeypatch.setenv("JOBKIT_STORE_TIMEOUT_SECONDS", "0.5")
    assert load_platform().lease_seconds == 3


@pytest.mark.parametrize("field", ["broker_url", "store_url"])
def test_no_password_is_in_what_settings_and_their_errors_print(field: str) -> None:
    platform = PlatformSettings(broker_url=RABBIT, store_url=REDIS)
    assert "s3cret" not in f"{platform!r} {platform}"
    with pytest.raises(ValidationError) as refusal:
        PlatformSettings.model_validate({field: "http://jobs:s3cret@host"})
    assert "s3cret" not in str(refusal.value)


def test_each_wrong_variable_gets_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    said = complaint(monkeypatch, JOBKIT_HEARTBEAT_SECONDS="x", JOBKIT_LEASE_SECONDS="y")
    assert [line.partition(":")[0] for line in said.splitlines()] == [
        "JOBKIT_HEARTBEAT_SECONDS",
        "JOBKIT_LEASE_SECONDS",
    ]


def test_a_service_s_error_names_the_variable_with_its_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPORTS_PAGE_SIZE", "0")
    with pytest.raises(SettingsError) as refusal:
        ReportSettings.load()
    assert {line.partition(":")[0] for line in str(refusal.value).splitlines()} == {
        "REPORTS_WAREHOUSE_URL",
        "REPORTS_PAGE_SIZE",
    }


def test_the_variables_that_other_tools_know_keep_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert PlatformSettings.variable("otlp_endpoint") == "OTEL_EXPORTER_OTLP_ENDPOINT"
    assert PlatformSettings.variable("sentry_dsn") == "SENTRY_DSN"
    assert ReportSettings.variable("processes") == "REPORTS_PROCESSES"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")
    monkeypatch.setenv("SENTRY_DSN", "https://public@sentry.example.org/1")
    platform = load_platform()
    assert platform.otlp_endpoint == "http://collector:4318"
    assert platform.sentry_dsn is not None
    assert "public" not in repr(platform)


def test_empty_means_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "")
    monkeypatch.setenv("SENTRY_DSN", "")
    platform = load_platform()
    assert (platform.otlp_endpoint, platform.sentry_dsn) == (None, None)


@pytest.mark.parametrize("environment", ["staging", "production"])
@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("JOBKIT_BROKER_URL", "amqp://guest:guest@rabbit:5672/%2F"),
        ("JOBKIT_BROKER_URL", "amqp://jobs:changethis@rabbit:5672/%2F"),
        ("JOBKIT_BROKER_URL", f"{RABBIT},amqp://jobs:changethis@rabbit2:5672/%2F"),
        ("JOBKIT_STORE_URL", "redis://:changethis@redis:6379/0"),
    ],
)
def test_a_default_secret_is_refused_outside_development(
    monkeypatch: pytest.MonkeyPatch, environment: str, variable: str, value: str
) -> None:
    variables = {"JOBKIT_ENVIRONMENT": environment, "JOBKIT_BROKER_URL": RABBIT, "JOBKIT_STORE_URL": REDIS}
    said = complaint(monkeypatch, **{**variables, variable: value})
    assert said.startswith(f"{variable}: ")
    assert "changethis" not in said
    assert environment in said


@pytest.mark.parametrize("environment", ["development", "test"])
def test_a_default_secret_works_in_development_and_is_known_as_one(
    monkeypatch: pytest.MonkeyPatch, environment: str
) -> None:
    monkeypatch.setenv("JOBKIT_ENVIRONMENT", environment)
    assert load_platform().default_secrets() == ["JOBKIT_BROKER_URL"]


def test_secrets_of_one_s_own_are_accepted_in_production(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBKIT_ENVIRONMENT", "production")
    monkeypatch.setenv("JOBKIT_BROKER_URL", f"{RABBIT}, amqps://jobs:s3cret@rabbit2/jobs")
    monkeypatch.setenv("JOBKIT_STORE_URL", "rediss://:s3cret@redis:6380/1")
    assert load_platform().broker_urls == (RABBIT, "amqps://jobs:s3cret@rabbit2/jobs")


def test_settings_cannot_be_changed_once_read() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_platform().log_level = "DEBUG"  # type: ignore[misc]  # that is the point


def test_a_misconfiguration_ends_the_process_with_status_78_and_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOBKIT_LOG_LEVEL", "LOUD")
    with pytest.raises(SystemExit) as end, exit_if_misconfigured():
        load_platform()
    assert end.value.code == 78
    written = capsys.readouterr()
    assert written.out == ""
    assert written.err.startswith("JOBKIT_LOG_LEVEL: ")
    assert written.err.count("\n") == 1


def test_other_errors_pass_through() -> None:
    with pytest.raises(KeyError), exit_if_misconfigured():
        raise KeyError("x")


def test_importing_the_package_reads_no_environment_and_no_file(tmp_path: Path) -> None:
    code = "import jobkit.settings, jobkit.service, jobkit.producer, jobkit.schedule.scheduler"
    broken = {"JOBKIT_LOG_LEVEL": "LOUD", "JOBKIT_BROKER_URL": "nonsense", "PATH": ""}
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, env=broken, cwd=tmp_path, timeout=30)
    assert list(tmp_path.iterdir()) == []
