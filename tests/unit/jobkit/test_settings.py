"""Settings name the variable that is wrong, and refuse what is unsafe."""

import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
import redis
from pydantic import Field, ValidationError
from pydantic_settings import SettingsConfigDict
from redis.driver_info import DriverInfo

from jobkit.addresses.store import driver, store_url
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
        ("JOBKIT_BROKER_URL", "amqp://jobs:s3cret@rabbit/shop/jobs"),  # pika takes the virtual host "shop"
        ("JOBKIT_BROKER_URL", "amqp://jobs:s3cret@rabbit//"),  # and here the one without a name
        ("JOBKIT_BROKER_URL", "amqp://jobs:s3cret@rabbit/jobs#1"),
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
        ("JOBKIT_STORE_URL", "redis://"),
        ("JOBKIT_STORE_URL", "redis:///0"),
        ("JOBKIT_STORE_URL", "redis://redis/abc"),  # redis-py takes database 0 for each of these
        ("JOBKIT_STORE_URL", "redis://redis/0/1"),
        ("JOBKIT_STORE_URL", "redis://redis/-1"),
        ("JOBKIT_STORE_URL", "redis://redis/0#1"),
        ("JOBKIT_STORE_URL", "redis://redis/0?db=1"),
        ("JOBKIT_STORE_URL", "redis://redis?db=one"),
        ("JOBKIT_STORE_URL", "redis://one:6379,two:6379/0"),
        ("JOBKIT_STORE_URL", "redis://s3cret@redis/0"),
        ("JOBKIT_STORE_URL", "redis://:pa ss@redis/0"),
        ("JOBKIT_STORE_URL", "redis://:pa/ss@redis/0"),
        ("JOBKIT_STORE_URL", "redis://:pa?ss@redis/0"),
        ("JOBKIT_STORE_URL", "redis://:pa%ss@redis/0"),
        ("JOBKIT_STORE_URL", "REDIS://redis/0"),
        ("JOBKIT_STORE_URL", "unix://run/redis.sock"),
        ("JOBKIT_STORE_URL", "redis+sentinel://one:26379,two:26379/jobs/0"),
        ("JOBKIT_STORE_URL", f"{REDIS}?decode_responses=true"),
        ("JOBKIT_STORE_URL", f"{REDIS}?max_connections=1"),
        ("JOBKIT_STORE_URL", f"{REDIS}?protocol=3"),
        ("JOBKIT_STORE_URL", f"{REDIS}?health_check_interval=1"),
        ("JOBKIT_STORE_URL", f"{REDIS}?ssl_ca_certs=/etc/ssl/ca.pem"),  # without TLS
        ("JOBKIT_STORE_URL", "rediss://redis?ssl_ca_certs=/no/such.pem"),
        ("JOBKIT_NAMESPACE", "staging:eu"),  # the keys of the namespace "staging" begin so, too
        ("JOBKIT_NAMESPACE", "staging*"),  # a pattern in a list of rights
        ("JOBKIT_NAMESPACE", "{staging}"),
        ("JOBKIT_NAMESPACE", "-staging"),
        ("JOBKIT_NAMESPACE", "s" * 65),
        ("JOBKIT_MANAGEMENT_URL", "rabbit:15672"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "grpc://collector:4317"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "collector:4318/v1/traces"),
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "https://"),
        ("SENTRY_DSN", "not a dsn"),
        ("SENTRY_DSN", "false"),
        ("SENTRY_DSN", "https://key@sentry.example.org"),  # without a project
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
        ("JOBKIT_STORE_URL", "redis://:s3cret/x@redis/0"),
        ("JOBKIT_STORE_URL", "rediss://redis?ssl_password=s3cret&ssl_cert_reqs=s3cret"),
        ("JOBKIT_STORE_URL", '"redis://:s3cret@redis/0"'),
        ("JOBKIT_BROKER_URL", "amqp://jobs:s3cret${X}@rabbit/"),
        ("JOBKIT_MANAGEMENT_URL", "http://user:s3cret@"),
        ("SENTRY_DSN", "https://s3cret@"),
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


@pytest.mark.parametrize("nothing", ["", " ", "\t\n"])
def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch, nothing: str) -> None:
    for field in PlatformSettings.model_fields:
        monkeypatch.setenv(PlatformSettings.variable(field), nothing)
    assert load_platform() == PlatformSettings()
    monkeypatch.setenv("REPORTS_WAREHOUSE_URL", nothing)
    monkeypatch.setenv("REPORTS_PAGE_SIZE", nothing)
    with pytest.raises(SettingsError, match=r"^REPORTS_WAREHOUSE_URL: Field required$"):
        ReportSettings.load()


def test_white_space_around_a_value_is_stripped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBKIT_BROKER_URL", f" {RABBIT} , {RABBIT}\n")
    monkeypatch.setenv("JOBKIT_STORE_URL", f"{REDIS}\n")
    monkeypatch.setenv("JOBKIT_LEASE_SECONDS", " 30 ")
    monkeypatch.setenv("JOBKIT_LOG_LEVEL", "DEBUG ")
    monkeypatch.setenv("REPORTS_WAREHOUSE_URL", "/srv/data ")
    platform = load_platform()
    assert (platform.broker_urls, platform.store_url) == ((RABBIT, RABBIT), REDIS)
    assert (platform.lease_seconds, platform.log_level) == (30, "DEBUG")
    assert ReportSettings.load().warehouse_url == "/srv/data"


@pytest.mark.parametrize(
    "value",
    [
        '"/srv/data"',
        "'/srv/data'",
        '"/srv/data',
        "/srv/data'",
        "`/srv/data`",
        "\u201c/srv/data\u201d",
        "${STORAGE}",
        "/srv/${STORAGE}/data",
        "${STORAGE:-/srv}",
        "$STORAGE",
        "s3://$BUCKET/data",
        "$(STORAGE)",
        "{{ .Values.storage }}",
        "/srv/one\n/srv/two",
    ],
)
def test_a_value_that_was_meant_to_be_replaced_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("REPORTS_WAREHOUSE_URL", value)
    with pytest.raises(SettingsError) as refusal:
        ReportSettings.load()
    assert str(refusal.value).startswith("REPORTS_WAREHOUSE_URL: it ")
    assert "\n" not in str(refusal.value)


def test_a_password_may_hold_a_dollar_and_a_quote(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBKIT_STORE_URL", "redis://:pa$word%22%24@redis:6379/0")
    assert load_platform().store_url == "redis://:pa$word%22%24@redis:6379/0"


@pytest.mark.parametrize("environment", ["staging", "production"])
@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("JOBKIT_BROKER_URL", "amqp://guest:guest@rabbit:5672/%2F"),
        ("JOBKIT_BROKER_URL", "amqp://jobs:changethis@rabbit:5672/%2F"),
        ("JOBKIT_BROKER_URL", f"{RABBIT},amqp://jobs:changethis@rabbit2:5672/%2F"),
        ("JOBKIT_BROKER_URL", "amqp://rabbit/jobs"),  # RabbitMQ's client logs in as guest
        ("JOBKIT_BROKER_URL", f"{RABBIT},amqps://rabbit2/jobs"),
        ("JOBKIT_BROKER_URL", "amqp://jobs:change%74his@rabbit/jobs"),
        ("JOBKIT_STORE_URL", "redis://:changethis@redis:6379/0"),
        ("JOBKIT_STORE_URL", "unix:///run/redis.sock?password=changethis"),
        ("JOBKIT_MANAGEMENT_URL", "http://guest:guest@rabbit:15672"),
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


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_the_addresses_of_development_are_no_defaults_elsewhere(
    monkeypatch: pytest.MonkeyPatch, environment: str
) -> None:
    said = complaint(monkeypatch, JOBKIT_ENVIRONMENT=environment, JOBKIT_STORE_URL="")
    assert said.splitlines() == [
        f"JOBKIT_BROKER_URL: is not set, and {environment} has no default for it",
        f"JOBKIT_STORE_URL: is not set, and {environment} has no default for it",
    ]
    monkeypatch.setenv("JOBKIT_BROKER_URL", RABBIT)
    monkeypatch.setenv("JOBKIT_STORE_URL", REDIS)
    assert load_platform().environment == environment


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


def test_a_connection_to_the_store_does_not_look_up_the_version_of_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    look_up = Mock(side_effect=AssertionError("it was looked up"))
    monkeypatch.setattr("redis.utils.get_lib_version", look_up)
    assert store_url(REDIS) == REDIS
    connection = redis.ConnectionPool.from_url(REDIS, **driver()).make_connection()
    assert connection.driver_info == DriverInfo(lib_version=redis.__version__)  # type: ignore[attr-defined]  # untyped
    look_up.assert_not_called()  # whatever became of the exception
